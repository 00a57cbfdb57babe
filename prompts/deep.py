"""Deep prompts (M²PT, "Multimodal Prompt Tuning for Zero-shot Instruction Learning", EMNLP 2024) in numbers.

Initial values, how many values are trained, how many tokens a picture becomes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from prompts.manifest import VisionSpec

__all__ = ["M2PTSizes", "count_parameters", "image_tokens", "xavier_prompts", "xavier_rms"]


@dataclass(frozen=True)
class M2PTSizes:
    """Trained values by part."""

    text: int
    vision: int
    projector: int

    @property
    def prompts(self) -> int:
        """Values of textual and visual prompts together."""
        return self.text + self.vision

    @property
    def total(self) -> int:
        """All trained values."""
        return self.prompts + self.projector


def count_parameters(
    *,
    text_layers: int = 0,
    text_length: int = 0,
    text_hidden: int = 0,
    vision_layers: int = 0,
    vision_length: int = 0,
    vision_hidden: int = 0,
    projector_parameters: int = 0,
) -> M2PTSizes:
    """Return what an M²PT prompt of these sizes trains: L·P·d, L_v·P_v·d_v and the projector's own."""
    return M2PTSizes(
        text=text_layers * text_length * text_hidden,
        vision=vision_layers * vision_length * vision_hidden,
        projector=projector_parameters,
    )


def xavier_prompts(layers: int, length: int, hidden: int, generator: Generator | None = None) -> Tensor:
    """Return initial prompts, float32 (layers, length, hidden) = (L, P, d).

    Each layer is drawn as xavier-uniform of a (1, P, d) tensor: within ±sqrt(6 / (d·(P + 1))).
    """
    bound = math.sqrt(3) * xavier_rms(length, hidden)
    drawn = torch.rand(layers, length, hidden, generator=generator)
    return drawn.mul_(2 * bound).sub_(bound)


def xavier_rms(length: int, hidden: int) -> float:
    """Return the root mean square of xavier-uniform values of a (1, P, d) tensor."""
    return math.sqrt(2 / (hidden * (length + 1)))


def image_tokens(patches: int, vision: VisionSpec | None) -> int:
    """Return how many tokens one picture gives the language model.

    Mode `released` drops row 0, which is prompt 0 and no longer CLS: P_v - 1 prompt rows, CLS and the
    patches. Mode `paper`, and no visual prompts, give the patches alone.
    """
    if vision is not None and vision.mode == "released":
        return patches + vision.length
    return patches
