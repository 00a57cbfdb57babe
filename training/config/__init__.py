"""What a training or evaluation job is told: a YAML file, checked whole, with `--set a.b=value` on top.

Unknown keys are refused and every fault is reported at once. Defaults stand here and nowhere else.
"""

from training.config.base import Dtype, How, LossOver, TrainConfig
from training.config.evaluate import EvaluateConfig
from training.config.m2pt import M2ptConfig, M2ptOptions
from training.config.read import read_config
from training.config.tvp import TvpConfig, TvpOptions

__all__ = [
    "Dtype",
    "EvaluateConfig",
    "How",
    "LossOver",
    "M2ptConfig",
    "M2ptOptions",
    "TrainConfig",
    "TvpConfig",
    "TvpOptions",
    "read_config",
]
