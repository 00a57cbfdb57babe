"""Vision prompts into a ViT encoder: rows in front of its first row (CLS where there is one), overwritten at
the input of every layer.

Mode `released`: the language model gets the prompt rows too, as they are at the input of the layer after the
last one run (after the overwrite): constants of the task. Mode `paper`: the prompt rows are taken off again.
Feature selection (dropping the first row) comes after, in the model. Written for vLLM 0.32's CLIPEncoder and
SiglipEncoder `(inputs_embeds, return_all_hidden_states)`, Idefics2Encoder `(inputs_embeds, attention_mask)`
where it gets no mask, and BlipEncoder `(inputs_embeds)`.

B: pictures or tiles; P_v: prompt length; N: rows of the base model's encoder; d_v: its width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from server.engine.bank import PromptBank

__all__ = ["VisionInjector"]


@dataclass(frozen=True)
class _Active:
    rows: Tensor
    """(B, P_v) bank rows."""
    mode: str

    @property
    def length(self) -> int:
        return self.rows.shape[1]


class VisionInjector:
    """Hooks on one encoder; they do nothing outside `using`.

    `output_layer`: which layer's prompts the language model sees in mode `released` (the layer that would run
    next), None where the encoder's last layer has run.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: Sequence[nn.Module],
        bank: PromptBank,
        *,
        output_layer: int | None,
    ) -> None:
        self._bank = bank
        self._output_layer = output_layer
        self._active: _Active | None = None
        encoder.register_forward_pre_hook(self._put_in_front, with_kwargs=True)
        for index, layer in enumerate(layers[1:], start=1):
            layer.register_forward_pre_hook(self._make_overwrite(index), with_kwargs=True)
        encoder.register_forward_hook(self._finish)

    @contextmanager
    def using(self, rows: Tensor, mode: str) -> Iterator[None]:
        """Runs the encoder inside with `rows` (B, P_v) of the bank, one line per picture of the batch, or one
        line (1, P_v) for all of them."""
        self._active = _Active(rows, mode)
        try:
            yield
        finally:
            self._active = None

    def _overwritten(self, layer: int, states: Tensor) -> Tensor:
        """(B, P_v, d_v) prompt states as that layer gets them; `states`: as the layer before left them."""
        assert self._active is not None
        prompts, has_one = self._bank.vision.take(layer, self._active.rows)
        return torch.where(has_one.unsqueeze(-1), prompts.to(states.dtype), states)

    def _put_in_front(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if self._active is None:
            return None
        embeds = args[0] if args else kwargs["inputs_embeds"]
        nothing = embeds.new_zeros(embeds.shape[0], self._active.length, embeds.shape[2])
        embeds = torch.cat([self._overwritten(0, nothing), embeds], dim=1)
        return ((embeds, *args[1:]), kwargs) if args else (args, {**kwargs, "inputs_embeds": embeds})

    def _make_overwrite(self, layer: int) -> Any:
        def overwrite(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
            if self._active is None:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            states, own = hidden[:, : self._active.length], hidden[:, self._active.length :]
            hidden = torch.cat([self._overwritten(layer, states), own], dim=1)
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return overwrite

    def _finish(self, _: nn.Module, __: tuple, hidden: Tensor) -> Tensor | None:
        """(B, P_v + N, d_v) as the encoder leaves it -> what feature selection gets."""
        if self._active is None:
            return None
        states, own = hidden[:, : self._active.length], hidden[:, self._active.length :]
        if self._active.mode == "paper":
            return own
        if self._output_layer is None:
            return hidden
        return torch.cat([self._overwritten(self._output_layer, states), own], dim=1)
