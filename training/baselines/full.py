"""Full fine-tuning: every weight of the language model and of the projector; the vision tower stays frozen.

It is what LLaVA trains in its second stage (Liu et al. 2023, section 4.2). The model computes in its own
dtype; the weights in training are float32 copies of it, as under mixed precision.
"""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prompts.errors import ConfigError
from prompts.faults import fault
from training.backbone import NO_PROMPTS, DeepPrompts, LlavaBackbone
from training.baselines.base import SAVED_DTYPE, Baseline
from training.config import BaselineConfig

__all__ = ["WEIGHTS_FILE", "FullWeights", "load_full"]

WEIGHTS_FILE = "weights.safetensors"


class FullWeights(Baseline):
    """Float32 copies of the weights, which the model is given before each forward pass."""

    def __init__(self, config: BaselineConfig, backbone: LlavaBackbone) -> None:
        self._weights = _weights_of(backbone)
        copies = {
            name: weight.detach().float().clone().requires_grad_() for name, weight in self._weights.items()
        }
        super().__init__(config, copies)
        for name, weight in self._weights.items():
            weight.requires_grad_()
            weight.register_post_accumulate_grad_hook(partial(_hand_over, copies[name]))

    @torch.no_grad()
    def deep(self) -> DeepPrompts:
        """Puts the values into the model, in its dtype."""
        for name, weight in self._weights.items():
            weight.copy_(self.tensors[name])
        return NO_PROMPTS

    def save(self, folder: Path) -> None:
        """`weights.safetensors`: each weight under its name in the model."""
        folder.mkdir(parents=True)
        values = {name: value.to(SAVED_DTYPE).contiguous() for name, value in self.state().items()}
        save_file(values, folder / WEIGHTS_FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_full(backbone: LlavaBackbone, folder: Path) -> None:
    """Puts saved weights into a model; it is another model from now on.

    Raises:
        ConfigError: they are of other weights than this model's.
    """
    weights, values = _weights_of(backbone), load_file(folder / WEIGHTS_FILE)
    if {name: weight.shape for name, weight in weights.items()} != {n: v.shape for n, v in values.items()}:
        cure = "load them into the model they were trained in"
        problem = fault(WEIGHTS_FILE, expected="this model's weights", came="others", cure=cure)
        raise ConfigError(folder, [problem])
    for name, weight in weights.items():
        weight.copy_(values[name])


def _weights_of(backbone: LlavaBackbone) -> dict[str, nn.Parameter]:
    """Language model, output layer and projector, by name; a weight that two modules share once."""
    modules = (backbone.decoder, backbone.head, backbone.projector)
    wanted = {id(weight) for module in modules for weight in module.parameters()}
    return {name: weight for name, weight in backbone.model.named_parameters() if id(weight) in wanted}


@torch.no_grad()
def _hand_over(copy: Tensor, weight: Tensor) -> None:
    """Adds a weight's gradient to its float32 copy's."""
    assert weight.grad is not None
    gradient = weight.grad.float()
    copy.grad = gradient if copy.grad is None else copy.grad.add_(gradient)
    weight.grad = None
