"""The token that stands for a learned one in a prompt's ids. Its embedding is never read."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["choose_placeholder"]

_ENDS = "eos_token_id"
_PICTURES = ("_token_id", "_token_index")
_OF_TEXT = {"bos_token_id", "pad_token_id", "decoder_start_token_id", "sep_token_id"}


def choose_placeholder(tokenizer: Any, configs: Iterable[Any], generation: Mapping[str, Any]) -> int:
    """A token that means nothing where it stands: never one that ends an answer, never a picture's.

    Samplers count a prompt's tokens for their penalties, so an ordinary word is the last resort.

    Args:
        configs: the model's and its language model's.
        generation: what its generation config says.
    """
    taken = {tokenizer.eos_token_id, *_as_list(generation.get(_ENDS))}
    for config in configs:
        named = {name: value for name, value in vars(config).items() if name.endswith(_PICTURES)}
        taken.update(*(_as_list(value) for name, value in named.items() if name not in _OF_TEXT))
    usual = [getattr(tokenizer, name, None) for name in ("bos_token_id", "pad_token_id", "unk_token_id")]
    special = getattr(tokenizer, "all_special_ids", [])
    return next(one for one in (*usual, *special, *range(len(taken) + 1)) if one not in (None, *taken))


def _as_list(value: Any) -> list[int]:
    """Configs hold one id, several, or none."""
    if value is None or isinstance(value, str):
        return []
    return [int(one) for one in value] if isinstance(value, list | tuple) else [int(value)]
