"""What a baseline is, beside what the loop asks of it, and what all of them share."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.backbone import NO_PROMPTS, DeepPrompts
from training.config import BaselineConfig
from training.m2pt.learned import InTraining, Layout

__all__ = ["SAVED_DTYPE", "Baseline"]

SAVED_DTYPE = torch.bfloat16
"""As a bundle of M²PT, so that sizes on disk say what a method needs and not how it was written."""


class Baseline(InTraining, ABC):
    """Tensors in training, float32 leaves by name; a `training.m2pt.learner.Learner`."""

    def __init__(self, config: BaselineConfig, tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors
        self.layout = Layout(None, None)

    def deep(self) -> DeepPrompts:
        """None: the values are in the model."""
        return NO_PROMPTS

    def groups(self) -> list[dict[str, Any]]:
        """One group; every tensor learns at `lr`."""
        rate = self.config.lr
        return [{"params": list(self.tensors.values()), "lr": rate, "peak": rate}]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what was learned into the new `folder`, in `SAVED_DTYPE`; the end of training."""
