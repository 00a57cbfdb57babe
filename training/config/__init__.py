"""What a training or evaluation job is told: a YAML file, checked whole, with `--set a.b=value` on top.

Unknown keys are refused and every fault is reported at once. Defaults stand here and nowhere else.
"""

from training.config.base import Dtype, How, LossOver, TrainConfig
from training.config.baseline import BaselineConfig, FullConfig, LoraConfig, PromptTuningConfig
from training.config.evaluate import EvaluateConfig
from training.config.m2pt import M2ptConfig, M2ptOptions
from training.config.read import read_config
from training.config.tvp import TvpConfig, TvpOptions

__all__ = [
    "BaselineConfig",
    "Dtype",
    "EvaluateConfig",
    "FullConfig",
    "How",
    "LoraConfig",
    "LossOver",
    "M2ptConfig",
    "M2ptOptions",
    "PromptTuningConfig",
    "TrainConfig",
    "TvpConfig",
    "TvpOptions",
    "read_config",
]
