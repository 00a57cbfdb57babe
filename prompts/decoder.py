"""The language model of a checkpoint in numbers, read from its safetensors headers.

`config.json` is no help here: released LLaVA checkpoints leave out what their language model's class has as a
default, and only transformers knows the defaults.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prompts.errors import BaseModelError
from prompts.faults import fault
from prompts.fingerprint import read_shapes

__all__ = ["DecoderShape", "read_decoder_shape"]

_EMBEDDING = "embed_tokens.weight"
_POSITIONS = "embed_positions.weight"


@dataclass(frozen=True)
class DecoderShape:
    """`layers` layers of width `hidden`; `kv_width`: of a layer's keys (heads × their width), or None where
    the checkpoint does not hold them as a matrix of their own; `adds_positions`: whether it adds a learned
    vector of its place to each input embedding, as OPT does."""

    layers: int
    hidden: int
    kv_width: int | None
    adds_positions: bool = False


def read_decoder_shape(folder: Path) -> DecoderShape:
    """Reads the checkpoint in `folder`: `…embed_tokens.weight` and the `…layers.N.` beside it.

    Raises:
        BaseModelError: no checkpoint, or no one language model of such names in it.
    """
    shapes = read_shapes(folder)
    heads = [name.removesuffix(_EMBEDDING) for name in shapes if name.endswith(_EMBEDDING)]
    found = {head: layers for head in heads if (layers := _count_layers(shapes, head))}
    if len(found) != 1:
        came = "none" if not found else f"{len(found)}"
        cure = "give the folder of a model whose language model is named like Llama's"
        expected = f"one language model ({_EMBEDDING}, layers.N)"
        raise BaseModelError(
            fault(f"base model {Path(folder).name}", expected=expected, came=came, cure=cure)
        )
    ((head, layers),) = found.items()
    keys = shapes.get(f"{head}layers.0.self_attn.k_proj.weight")
    hidden = shapes[head + _EMBEDDING][-1]
    kv_width = keys[0] if keys and keys[-1] == hidden else None
    return DecoderShape(layers, hidden, kv_width, f"{head}{_POSITIONS}" in shapes)


def _count_layers(shapes: Mapping[str, tuple[int, ...]], head: str) -> int:
    pattern = re.compile(rf"{re.escape(head)}layers\.(\d+)\..+")
    numbers = [int(match[1]) for name in shapes if (match := pattern.fullmatch(name))]
    return max(numbers, default=-1) + 1
