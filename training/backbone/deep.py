"""Learned tensors that work inside a model (M²PT), as a backbone takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prompts.bundle import Bundle
from prompts.errors import UnsupportedError
from prompts.faults import fault

__all__ = ["NO_PROMPTS", "DeepPrompts"]


@dataclass(frozen=True)
class DeepPrompts:
    """Learned tensors inside the model; None means the model's own behaviour.

    Attributes:
        text: (L, P_t, d), one group of rows per decoder layer.
        vision: (L_v, P_v, d_v), one group of rows per encoder layer.
        projector: parameters of the multimodal projector by name, in place of the model's.
    """

    text: Tensor | None = None
    vision: Tensor | None = None
    vision_mode: Literal["released", "paper"] = "released"
    projector: Mapping[str, Tensor] | None = None

    @classmethod
    def of_bundle(cls, bundle: Bundle, device: torch.device) -> "DeepPrompts":
        """The deep tensors of a bundle (its frame works on pixels and is not among them).

        Raises:
            UnsupportedError: the bundle has an output layer of its own, a prefix, or prompts at some layers
                alone.
        """
        for part, spec in (("text", bundle.manifest.text), ("vision", bundle.manifest.vision)):
            if spec is not None and len(spec.layer_indices) < spec.layers:
                cure = "prompts at some layers are served, but not measured yet"
                came = str(list(spec.layer_indices))
                raise UnsupportedError(fault(f"{part}.at", expected="all layers", came=came, cure=cure))
        if bundle.manifest.prefix is not None:
            cure = "a prefix of keys and values is served, but not measured yet"
            raise UnsupportedError(fault("prefix", expected="null", came="a prefix", cure=cure))
        if bundle.manifest.lm_head:
            cure = "an lm_head per task is served, but not measured yet"
            raise UnsupportedError(fault("lm_head", expected="false", came="true", cure=cure))
        projector = {name: tensor.to(device) for name, tensor in bundle.projector_state().items()}
        vision = bundle.manifest.vision
        return cls(
            text=None if bundle.text_prompts is None else bundle.text_prompts.to(device),
            vision=None if bundle.vision_prompts is None else bundle.vision_prompts.to(device),
            vision_mode="released" if vision is None else vision.mode,
            projector=projector or None,
        )

    @property
    def text_length(self) -> int:
        """P_t, rows before the first token."""
        return 0 if self.text is None else self.text.shape[1]


NO_PROMPTS = DeepPrompts()
