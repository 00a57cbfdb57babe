"""What a member of the pico family is: eyes that the recipe trains, and a checkpoint that others load."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from training.pico.language_model import grown, language_model, merged, padded_vocabulary

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "WEIGHTS_FOLDER",
    "Eyes",
    "Member",
    "Seen",
    "projector_state",
    "save_beside",
]

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Seen:
    """A batch of pictures after the tower.

    Attributes:
        patches: (B, P, width) what the projector reads.
        pooled: (B, width) the tower's summary, for the member whose tower is half of a CLIP.
    """

    patches: Tensor
    pooled: Tensor | None = None


class Eyes(nn.Module):
    """A tower, and a projector from its patches to rows that the language model reads.

    `projector` is whatever stands between the two: LLaVA's two linear layers, a pixel shuffle with one, a
    Q-Former.
    """

    side: ClassVar[int] = 224
    mean: ClassVar[tuple[float, ...]] = CLIP_MEAN
    std: ClassVar[tuple[float, ...]] = CLIP_STD
    width: ClassVar[int]
    tower: Any

    def __init__(self, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector

    def see(self, pixels: Tensor) -> Seen:
        """Normalised pixels (B, 3, side, side) through the tower."""
        raise NotImplementedError

    def contrast(self, seen: Seen, shown: Tensor) -> Tensor | None:
        """A loss of pictures against captions, `shown` (B, names) being 1 where a glyph is there; or None."""
        return None

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to the tower's float input, as the checkpoint's image processor does it."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        scaled = pixels.float() / 255
        if pixels.shape[-1] != self.side:
            scaled = F.interpolate(scaled, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        return (scaled - mean) / std


class Member(ABC):
    """One model of the family; its weights lie in `weights/<name>/`.

    Attributes:
        name: as in `passepartout model build NAME`.
        architecture: the class in transformers.
        seed: of the first values and of the pictures it learns from; differs between members.
        starts_from: the member whose low-rank updates of the language model its second stage begins with.
        rounds: of the second stage, where it starts from another's updates.
        around_picture: texts that the model's processor puts before and after a picture's rows.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    seed: ClassVar[int]
    starts_from: ClassVar[str | None] = "pico-llava"
    rounds: ClassVar[int] = 2
    around_picture: ClassVar[tuple[str, str]] = ("", "")

    @property
    def tower_file(self) -> Path:
        """Weights of the tower, bf16."""
        return WEIGHTS_FOLDER / self.name / "tower.safetensors"

    @property
    def language_file(self) -> Path:
        """Weights of the projector and of the language model's low-rank updates, bf16."""
        return WEIGHTS_FOLDER / self.name / "language.safetensors"

    @abstractmethod
    def make_eyes(self) -> Eyes:
        """Eyes with random weights, from torch's global generator."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer with the tokens and the chat template of this layout."""

    @abstractmethod
    def write(self, folder: Path, tower: dict[str, Tensor], taught: dict[str, Tensor]) -> None:
        """Writes an ordinary checkpoint: config, weights, processor.

        Args:
            tower: the state of `Eyes.tower`.
            taught: `projector.<name>` and `updates.<path>.a|b`.
        """

    def language(self, taught: dict[str, Tensor]) -> LlamaForCausalLM:
        """The language model with updates added and the vocabulary grown, embeddings tied; in bf16."""
        model = language_model()
        state = merged(model.model.state_dict(), taught)
        rows = padded_vocabulary(self.tokenizer)
        model.resize_token_embeddings(rows, mean_resizing=False)
        state["embed_tokens.weight"] = grown(state["embed_tokens.weight"], rows)
        model.model.load_state_dict(state)
        return model


def projector_state(taught: dict[str, Tensor]) -> dict[str, Tensor]:
    """The projector's part of what the second stage taught."""
    return {
        name.removeprefix("projector."): tensor
        for name, tensor in taught.items()
        if name.startswith("projector.")
    }


def save_beside(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """What every member keeps beside its weights: how to end an answer; and files that any user may read."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # the server may run as another user
