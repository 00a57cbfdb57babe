"""Text prompts into the decoder: at the input of each layer a prompt token's state is its vector of the bank.

Written for vLLM 0.32's decoder layers `(positions, hidden_states, residual)` that begin with
norm(hidden_states + residual): the row goes into `hidden_states` and 0 into `residual`. Layers without a
`residual` (OPT's) get the whole state in `hidden_states`. There is no branch on whether a prompt is in the
batch, so compiled graphs and CUDA graphs are the same for every batch.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prompts.errors import UnsupportedError
from server.engine.bank import PromptBank

__all__ = ["inject_text_prompts"]

_Hook = Callable[[nn.Module, tuple, dict[str, Any]], tuple[tuple, dict[str, Any]]]


def inject_text_prompts(layers: Sequence[nn.Module], bank: PromptBank) -> None:
    """Hooks the bank into each decoder layer.

    Raises:
        UnsupportedError: a layer of another signature.
    """
    for index, layer in enumerate(layers):
        names = [name for name in inspect.signature(type(layer).forward).parameters if name != "self"]
        if "hidden_states" not in names:
            raise UnsupportedError(
                f"decoder layer {type(layer).__name__}: expected a forward with hidden_states, "
                f"came ({', '.join(names)}); learned text prompts do not work with this language model"
            )
        residual_at = names.index("residual") if "residual" in names else None
        hook = _make_hook(bank, index, names.index("hidden_states"), residual_at)
        layer.register_forward_pre_hook(hook, with_kwargs=True)


def _make_hook(bank: PromptBank, layer: int, hidden_at: int, residual_at: int | None) -> _Hook:
    def put_rows(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        args, kwargs = list(args), dict(kwargs)  # type: ignore[assignment]
        hidden = _get(args, kwargs, hidden_at, "hidden_states")
        residual = None if residual_at is None else _get(args, kwargs, residual_at, "residual")
        prompts, has_one = bank.text.take(layer, bank.rows[: hidden.shape[0]])
        is_prompt, prompts = has_one.unsqueeze(-1), prompts.to(hidden.dtype)
        _set(args, kwargs, hidden_at, "hidden_states", torch.where(is_prompt, prompts, hidden))
        if residual_at is not None and residual is not None:
            zero = torch.zeros_like(residual)
            _set(args, kwargs, residual_at, "residual", torch.where(is_prompt, zero, residual))
        return tuple(args), kwargs

    return put_rows


def _get(args: Any, kwargs: dict[str, Any], at: int, name: str) -> Any:
    return args[at] if len(args) > at else kwargs.get(name)


def _set(args: Any, kwargs: dict[str, Any], at: int, name: str, value: Tensor) -> None:
    if len(args) > at:
        args[at] = value
    else:
        kwargs[name] = value
