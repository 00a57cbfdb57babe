"""Prefixes into the attention: the keys and values of a prefix token are those its task learned (PEFT's
`PREFIX_TUNING`), at every layer.

They are used as they are, after rotary, at the positions 0..P-1 that the prompt's placeholders take; the text
begins at P. The hidden states of placeholders are zeros at every layer: nobody attends to anything else of
theirs. Written for vLLM 0.32: each decoder layer has one `Attention`, called with `(query, key, value)`; the
ranks of a tensor parallel group hold consecutive heads, or some the same where heads are fewer than ranks.

L: layers; P: prefix length; T: tokens of one step at most; w: width of all keys of a token that a rank holds.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType

from server.engine.vectors import INDEX, VectorBank

__all__ = ["KvLayout", "PrefixBank", "find_kv_layout", "inject_prefixes"]


@dataclass(frozen=True)
class KvLayout:
    """The attention of each decoder layer, and which of the model's `total_heads` key heads this rank has."""

    attentions: Sequence[nn.Module]
    total_heads: int
    first_head: int
    heads: int
    head_dim: int

    @property
    def columns(self) -> slice:
        """This rank's part of keys or values of the whole model (…, total_heads · head_dim)."""
        return slice(self.first_head * self.head_dim, (self.first_head + self.heads) * self.head_dim)


class PrefixBank(nn.Module):
    """Keys and values of all resident prefixes, and the index of the step being run.

    `rows`: (T,) `INDEX`, the prefix row of each token of the step, -1 where it is none. A vector of `vectors`
    is a token's keys and after them its values, (2 · w,).
    """

    def __init__(
        self, layout: KvLayout, *, rows: int, max_step_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self._columns = layout.columns
        self.rows: Tensor
        step = torch.full((max_step_tokens,), -1, dtype=INDEX, device=device)
        self.register_buffer("rows", step, persistent=False)
        layers = len(layout.attentions)
        self.vectors = VectorBank(
            "prefix",
            layers=layers,
            rows=rows,
            vectors=rows * layers,
            width=2 * layout.heads * layout.head_dim,
            dtype=dtype,
            device=device,
        )

    def add(self, keys: Tensor, values: Tensor) -> Tensor:
        """Stores `keys` and `values` (L, P, all heads' width); returns their rows, (P,) int64 on the CPU.

        Raises:
            CapacityError: not enough rows; nothing was changed.
        """
        own = torch.cat([keys[..., self._columns], values[..., self._columns]], dim=-1)
        return self.vectors.add(own, range(len(own)))

    def take(self, layer: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (tokens, w) of the step's first tokens and which of them are prefix tokens."""
        vectors, is_prefix = self.vectors.take(layer, self.rows[:tokens])
        keys, values = vectors.chunk(2, dim=-1)
        return keys, values, is_prefix


def find_kv_layout(layers: Sequence[nn.Module], *, total_heads: int, rank: int, ranks: int) -> KvLayout | str:
    """How the decoder `layers` of this rank hold keys and values, or why this model takes no prefixes.

    `total_heads`: key heads of the whole model; `rank` of `ranks` in the tensor parallel group.
    """
    found = [[one for one in layer.modules() if isinstance(one, Attention)] for layer in layers]
    if any(len(one) != 1 for one in found):
        return "prefixes need one attention over all keys in each layer, and this model has others"
    attentions: list[Any] = [one for (one,) in found]
    if any(one.attn_type != AttentionType.DECODER or one.kv_sharing_target_layer_name for one in attentions):
        return "layers of this model use the keys of others, and prefixes do not work with that"
    shapes = {(one.num_kv_heads, one.head_size, one.head_size_v) for one in attentions}
    heads, head_dim, value_dim = next(iter(shapes))
    if len(shapes) > 1 or head_dim != value_dim or heads != max(1, total_heads // ranks):
        return "prefixes need keys and values of one shape in all layers, and this model has several"
    return KvLayout(attentions, total_heads, rank * total_heads // ranks, heads, head_dim)


def inject_prefixes(layout: KvLayout, bank: PrefixBank) -> None:
    """Hooks the bank into each attention."""
    for layer, attention in enumerate(layout.attentions):
        names = [name for name in inspect.signature(type(attention).forward).parameters if name != "self"]
        attention.register_forward_pre_hook(_make_hook(bank, layer, names), with_kwargs=True)


def _make_hook(bank: PrefixBank, layer: int, names: Sequence[str]) -> Any:
    def put_prefixes(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        key, value = given["key"], given["value"]
        keys, values, is_prefix = bank.take(layer, key.shape[0])
        put = {"key": _where(is_prefix, keys, key), "value": _where(is_prefix, values, value)}
        return (), {**given, **put}

    return put_prefixes


def _where(is_prefix: Tensor, own: Tensor, states: Tensor) -> Tensor:
    """`states` (T, …) with `own` (T, w) in the places of prefix tokens."""
    chosen = torch.where(is_prefix.unsqueeze(-1), own.to(states.dtype), states.reshape(len(own), -1))
    return chosen.reshape(states.shape)
