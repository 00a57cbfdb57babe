"""The parity oracle: LLaVA with learned prompts as plain transformers, whole recompute for every token.

It follows METHODS and shares no code with `server/` or `training/`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, DynamicCache, LlavaForConditionalGeneration

from prompts.bundle import Bundle
from prompts.frame import frame_picture

__all__ = ["Answer", "Oracle", "overwriting", "prefix_cache"]


@dataclass(frozen=True)
class Answer:
    """Greedy `tokens`, and the first one's `logprobs` (vocabulary,)."""

    tokens: list[int]
    logprobs: Tensor


class Oracle:
    """One checkpoint in fp32."""

    def __init__(self, folder: Path) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.config = self.model.config

    @torch.no_grad()
    def answer(
        self, text: str, pictures: list[Image.Image], bundle: Bundle | None = None, *, tokens: int = 8
    ) -> Answer:
        """Greedy answer to `text` with one `<image>` for each picture; `bundle` None is the base model."""
        rows = self._embed(text, pictures, bundle)
        chosen: list[int] = []
        first: Tensor | None = None
        for _ in range(tokens):
            logits = self._logits(rows, bundle)[-1]
            first = logits.log_softmax(-1) if first is None else first
            chosen.append(int(logits.argmax()))
            rows = torch.cat([rows, self._embed_ids([chosen[-1]])])
        assert first is not None
        return Answer(chosen, first)

    @torch.no_grad()
    def logprobs(
        self,
        text: str,
        pictures: list[Image.Image],
        bundle: Bundle | None = None,
        continuation: Sequence[int] = (),
    ) -> Tensor:
        """Of what follows each row, (T, vocabulary): learned rows, the prompt's, `continuation`'s."""
        rows = torch.cat([self._embed(text, pictures, bundle), self._embed_ids(list(continuation))])
        return self._logits(rows, bundle).log_softmax(-1)

    def pixels(self, picture: Image.Image, bundle: Bundle | None) -> Tensor:
        """What the tower gets, (3, h, w)."""
        process = self.processor.image_processor
        if bundle is None or bundle.manifest.frame is None or bundle.frame_delta is None:
            return process(picture, return_tensors="pt")["pixel_values"][0]
        framed = frame_picture(picture, bundle.manifest.frame, bundle.frame_delta)
        return process(framed, do_rescale=False, return_tensors="pt")["pixel_values"][0]

    def features(self, picture: Image.Image, bundle: Bundle | None) -> Tensor:
        """Rows of one picture in the language model, (N, d)."""
        selected = self._tower_states(self.pixels(picture, bundle)[None], bundle)[0]
        projector = self.model.model.multi_modal_projector
        own = bundle.projector_state() if bundle else {}
        return torch.func.functional_call(projector, own, (selected,)) if own else projector(selected)

    def _tower_states(self, pixels: Tensor, bundle: Bundle | None) -> Tensor:
        """Selected states before the projector, (1, N, d_v), layer by layer."""
        tower = self.model.model.vision_tower
        tower = getattr(tower, "vision_model", tower)
        hidden = tower.embeddings(pixels)
        if hasattr(tower, "pre_layrnorm"):
            hidden = tower.pre_layrnorm(hidden)
        prompts = bundle.vision_prompts if bundle else None
        length = 0 if prompts is None else prompts.shape[1]
        spec = bundle.manifest.vision if bundle else None
        at = () if spec is None else spec.layer_indices
        if prompts is not None:
            hidden = torch.cat([_at_the_input(prompts, at)[None], hidden], dim=1)
        recorded = []
        for index, layer in enumerate(tower.encoder.layers):
            if prompts is not None and index in at:
                hidden = torch.cat([prompts[at.index(index)][None], hidden[:, length:]], dim=1)
            recorded.append(hidden)
            hidden = layer(hidden, attention_mask=None)
        states = [*recorded, hidden][self.config.vision_feature_layer]
        if spec is not None and spec.mode == "paper":
            states = states[:, length:]
        return states[:, 1:] if self.config.vision_feature_select_strategy == "default" else states

    def _embed(self, text: str, pictures: list[Image.Image], bundle: Bundle | None) -> Tensor:
        """Input rows (T, d) of the language model, text prompts in front."""
        left = list(pictures)
        parts = []
        text_spec = bundle.manifest.text if bundle else None
        if bundle is not None and bundle.text_prompts is not None and text_spec is not None:
            parts.append(_at_the_input(bundle.text_prompts, text_spec.layer_indices))
        for token in self.processor.tokenizer(text)["input_ids"]:
            is_picture = token == self.config.image_token_id
            parts.append(self.features(left.pop(0), bundle) if is_picture else self._embed_ids([token]))
        assert not left
        return torch.cat(parts)

    def _embed_ids(self, ids: list[int]) -> Tensor:
        return self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.int64))

    def _logits(self, rows: Tensor, bundle: Bundle | None) -> Tensor:
        """(T, vocabulary)."""
        decoder, cache = self.model.model.language_model, prefix_cache(bundle)
        at = bundle.manifest.text.at if bundle and bundle.manifest.text else None
        with overwriting(decoder.layers, bundle.text_prompts if bundle else None, at):
            hidden = decoder(inputs_embeds=rows[None], past_key_values=cache, use_cache=cache is not None)
        states = hidden.last_hidden_state[0]
        own = bundle.lm_head_weight if bundle else None
        return self.model.lm_head(states) if own is None else states @ own.T


def _at_the_input(prompts: Tensor, at: Sequence[int]) -> Tensor:
    """What prompt tokens are before layer 0: (P, d)."""
    return prompts[0] if 0 in at else torch.zeros_like(prompts[0])


def prefix_cache(bundle: Bundle | None) -> DynamicCache | None:
    """What decoding begins with: the keys and values of the bundle's prefix; None where it has none."""
    if bundle is None or bundle.manifest.prefix is None:
        return None
    heads = bundle.manifest.prefix.kv_heads
    by_head = [
        bundle.tensors[name].unflatten(-1, (heads, -1)).transpose(1, 2).unsqueeze(1)
        for name in ("prefix.keys", "prefix.values")
    ]
    return DynamicCache(list(zip(*by_head, strict=True)))


@contextmanager
def overwriting(
    layers: nn.ModuleList, prompts: Tensor | None, at: Sequence[int] | None = None
) -> Iterator[None]:
    """While open the first rows at the input of the layers `at` (None: all) are their prompts (L, P, d)."""

    def make_hook(own: Tensor) -> Any:
        def overwrite(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            hidden[:, : own.shape[0]] = own
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return overwrite

    hooks = (
        []
        if prompts is None
        else [
            layers[layer].register_forward_pre_hook(make_hook(own), with_kwargs=True)
            for layer, own in zip(at or range(len(layers)), prompts, strict=True)
        ]
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
