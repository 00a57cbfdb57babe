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
        text: (L, P_t, d), one group of rows per decoder layer, or per layer of `text_at`.
        vision: (L_v, P_v, d_v), one group of rows per encoder layer, or per layer of `vision_at`.
        projector: parameters of the multimodal projector by name, in place of the model's.
        text_at, vision_at: the layers with rows of their own, ascending; None: all. At a layer left out the
            rows go on as the layer before left them; where layer 0 is left out they enter as zeros.
        lm_head: weight (vocabulary, d) of the output layer, in place of the model's.
    """

    text: Tensor | None = None
    vision: Tensor | None = None
    vision_mode: Literal["released", "paper"] = "released"
    projector: Mapping[str, Tensor] | None = None
    text_at: tuple[int, ...] | None = None
    vision_at: tuple[int, ...] | None = None
    lm_head: Tensor | None = None

    @classmethod
    def of_bundle(cls, bundle: Bundle, device: torch.device) -> "DeepPrompts":
        """The deep tensors of a bundle (its frame works on pixels and is not among them).

        Raises:
            UnsupportedError: the bundle has a prefix of keys and values.
        """
        if bundle.manifest.prefix is not None:
            cure = "a prefix of keys and values is served, but not measured yet"
            raise UnsupportedError(fault("prefix", expected="null", came="a prefix", cure=cure))
        projector = {name: tensor.to(device) for name, tensor in bundle.projector_state().items()}
        text, vision, head = bundle.manifest.text, bundle.manifest.vision, bundle.lm_head_weight
        return cls(
            text=None if bundle.text_prompts is None else bundle.text_prompts.to(device),
            vision=None if bundle.vision_prompts is None else bundle.vision_prompts.to(device),
            vision_mode="released" if vision is None else vision.mode,
            projector=projector or None,
            text_at=None if text is None else text.at,
            vision_at=None if vision is None else vision.at,
            lm_head=None if head is None else head.to(device),
        )

    @property
    def text_length(self) -> int:
        """P_t, rows before the first token."""
        return 0 if self.text is None else self.text.shape[1]


NO_PROMPTS = DeepPrompts()
