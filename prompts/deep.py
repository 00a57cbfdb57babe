"""Deep prompts (M²PT, "Multimodal Prompt Tuning for Zero-shot Instruction Learning", EMNLP 2024) in numbers.

Initial values, how many values are trained, how many tokens a picture becomes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from prompts.manifest import VisionSpec

__all__ = [
    "LayerChoice",
    "M2PTSizes",
    "choose_layers",
    "count_parameters",
    "image_tokens",
    "xavier_prompts",
    "xavier_rms",
]

LayerChoice = (
    Literal["all", "first", "odd", "top_half"]
    | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
)
"""Which layers have prompts of their own: a word, or numbers from 0."""


@dataclass(frozen=True)
class M2PTSizes:
    """Trained values by part."""

    text: int
    vision: int
    projector: int
    lm_head: int = 0

    @property
    def prompts(self) -> int:
        """Values of textual and visual prompts together."""
        return self.text + self.vision

    @property
    def total(self) -> int:
        """All trained values."""
        return self.prompts + self.projector + self.lm_head


def count_parameters(
    *,
    text_layers: int = 0,
    text_length: int = 0,
    text_hidden: int = 0,
    vision_layers: int = 0,
    vision_length: int = 0,
    vision_hidden: int = 0,
    projector_parameters: int = 0,
    lm_head_parameters: int = 0,
) -> M2PTSizes:
    """Return what an M²PT prompt of these sizes trains: L·P·d, L_v·P_v·d_v, the projector's own, lm_head's.

    `text_layers`, `vision_layers`: the layers with prompts of their own.
    """
    return M2PTSizes(
        text=text_layers * text_length * text_hidden,
        vision=vision_layers * vision_length * vision_hidden,
        projector=projector_parameters,
        lm_head=lm_head_parameters,
    )


def choose_layers(which: str | Sequence[int], layers: int) -> tuple[int, ...]:
    """Return the numbers (from 0) of the layers of `layers` that have prompts of their own.

    `odd` counts from one, as people do (the 1st, 3rd, …: numbers 0, 2, …), so that the prompt rows get
    values where they enter. `top_half` are the layers next to the output.

    Raises:
        ValueError: a number that is no layer.
    """
    words = {
        "all": range(layers),
        "first": range(1),
        "odd": range(0, layers, 2),
        "top_half": range(layers // 2, layers),
    }
    chosen = tuple(words[which] if isinstance(which, str) else which)
    if max(chosen) >= layers:
        raise ValueError(f"expected layers 0 to {layers - 1}, came {max(chosen)}; name one of those")
    return chosen


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
