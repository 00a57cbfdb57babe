"""A baseline's training: M²PT's loop over something else."""

import shutil

from training.backbone import LlavaBackbone
from training.baselines.base import Baseline
from training.baselines.saved import ADAPTER_FOLDER, Saved, read_saved
from training.config import BaselineConfig, FullConfig, LoraConfig, M2ptConfig
from training.m2pt.loop import learn
from training.ranks import open_ranks

__all__ = ["train_baseline"]


def train_baseline(config: BaselineConfig) -> Saved:
    """Trains it and writes `<out>/adapter`; resumes a run of the same config, reads a finished one.

    Raises:
        ConfigError, BaseModelError, PictureError, SystemExit: as `training.m2pt.train_m2pt`.
    """
    found = read_saved(config.out)
    if found is not None:
        return found
    with open_ranks() as ranks:
        ended = learn(config, ranks, _begin)
        if ranks.is_first:
            draft = config.out / f"{ADAPTER_FOLDER}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            ended.learned.save(draft)
            draft.rename(config.out / ADAPTER_FOLDER)
    return Saved(config.out / ADAPTER_FOLDER)


def _begin(config: M2ptConfig, backbone: LlavaBackbone) -> Baseline:
    """First values; PEFT is loaded where it is asked for alone."""
    assert isinstance(config, BaselineConfig)
    if isinstance(config.learns, FullConfig):
        from training.baselines.full import FullWeights

        return FullWeights(config, backbone)
    from training.baselines.adapters import new_lora, new_prompt

    new = new_lora if isinstance(config.learns, LoraConfig) else new_prompt
    return new(config, backbone)
