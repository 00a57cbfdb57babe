"""What the loop asks of whatever it learns: M²PT's tensors, or those of a method it is compared with."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from training.backbone import DeepPrompts
from training.config import M2ptConfig
from training.m2pt.learned import Layout

__all__ = ["Learner"]


class Learner(Protocol):
    """Tensors in training and their way into the model."""

    @property
    def config(self) -> M2ptConfig:
        """The job."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Leaves, float32, with gradients: each under a name of its own."""

    @property
    def layout(self) -> Layout:
        """Where rows stand that examples of the data do not have."""

    def deep(self) -> DeepPrompts:
        """Called before each forward pass: puts the values of `tensors` where it will find them.

        What has no place in the model itself is returned; gradients flow.
        """

    def groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups, with each group's own peak learning rate as `peak`."""

    def state(self) -> dict[str, Tensor]:
        """The tensors as a checkpoint keeps them, on the CPU."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the values of a checkpoint of the same config."""
