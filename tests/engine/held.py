"""Which tensors a thing holds. Imported by tests of memory."""

from collections.abc import Iterator

from torch import Tensor

from server.engine.host import LayerPrompts

__all__ = ["tensors_in"]


def tensors_in(value: object) -> Iterator[Tensor]:
    """Itself, or those of prompts, mappings and tuples, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, LayerPrompts):
        yield value.prompts
    elif isinstance(value, dict | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(one)
