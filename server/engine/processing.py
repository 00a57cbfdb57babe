"""vLLM's multimodal processing with a learned prompt in it: mixins for a family's classes.

The learned prompt is one more modality, at most one item a request. The mixins put its P_t placeholder tokens
before the whole prompt, P_v more for each picture in mode `released`, the frame around each picture (in
float, `do_rescale=False`), and digest and slot into the hashes that vLLM's processor, encoder and prefix
caches go by. Written for vLLM 0.32 (`vllm.multimodal.processing`).
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptInsertion,
    PromptReplacement,
    PromptUpdate,
    TimingContext,
)
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo, PromptIndexTargets

from prompts.errors import EngineError, PictureError
from prompts.faults import fault
from prompts.frame import frame_picture
from server.engine.handles import TaskFrame, TaskHandle
from server.engine.items import (
    DUMMY_HANDLE,
    MODALITY,
    PICTURE_TICKET_FIELD,
    PROMPT_ROWS_FIELD,
    PROMPT_TICKET_FIELD,
    RESERVED_HASH_PREFIX,
    PromptItems,
    make_rows,
    make_ticket,
)
from server.engine.placeholder import choose_placeholder

__all__ = [
    "FRAME_OBSERVERS",
    "PromptDummyMixin",
    "PromptInfoMixin",
    "PromptProcessorMixin",
]

FRAME_OBSERVERS: list[Callable[[TaskHandle, float], None]] = []
"""Called with the handle and the seconds for each frame put on a picture, in a thread of vLLM's."""

_IN_PROCESS: ContextVar[TaskHandle | None] = ContextVar("passepartout_in_process", default=None)
"""The handle of the request this thread's processor is at; vLLM's hooks get only some of its items."""


class PromptInfoMixin(BaseProcessingInfo):
    """Declares the modality. It is left out of memory profiling: a row costs next to nothing to embed, and
    `EngineFacts.max_text_length` keeps every item within vLLM's encoder budget."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {**super().get_supported_mm_limits(), MODALITY: 1}

    def get_data_parser(self) -> MultiModalDataParser:
        parser = super().get_data_parser()
        stock: Callable[[], Mapping[str, Any]] = parser._get_subparsers
        parser._get_subparsers = lambda: {**stock(), MODALITY: PromptItems}
        return parser

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        stock = super().get_mm_max_tokens_per_item(seq_len, mm_counts)
        theirs = {name for name, count in mm_counts.items() if count and name != MODALITY}
        if stock is None and theirs == {"image"} and hasattr(self, "get_max_image_tokens"):
            stock = {"image": self.get_max_image_tokens()}
        if stock is None and theirs:
            return None  # vLLM counts on dummy inputs then, ours among them
        return {**(stock or {}), MODALITY: 1}


class PromptDummyMixin(BaseDummyInputsBuilder):
    """Warms up with the dummy handle."""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any
    ) -> dict[str, Any]:
        data = dict(super().get_dummy_mm_data(seq_len, mm_counts, mm_options))
        if mm_counts.get(MODALITY):
            data[MODALITY] = [DUMMY_HANDLE]
        return data


class PromptProcessorMixin(BaseMultiModalProcessor):
    """Goes before the family's own processor class in the bases."""

    def apply(self, inputs: ProcessorInputs, timing_ctx: TimingContext) -> Any:
        given = inputs.mm_data_items.get(MODALITY)
        handle: TaskHandle | None = given[0] if given else None
        if handle is not None and handle.changes_pictures and inputs.mm_data_items.get("video"):
            came, cure = "a video", "send its frames as pictures"
            raise PictureError(fault(f"task {handle.name}", expected="pictures", came=came, cure=cure))
        if handle is not None and handle.text_length == 0:
            # An item without tokens of its own is an error to vLLM.
            rest = {name: items for name, items in inputs.mm_data_items.items() if name != MODALITY}
            inputs = replace(inputs, mm_data_items=MultiModalDataItems(rest))
        token = _IN_PROCESS.set(handle)
        try:
            return super().apply(inputs, timing_ctx)
        finally:
            _IN_PROCESS.reset(token)

    # Caches ---------------------------------------------------------------------------------------------

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> dict[str, list[str]]:
        hashes = dict(super()._get_mm_hashes(inputs))
        handle = _IN_PROCESS.get()
        if handle is None:
            return hashes
        key = f"{RESERVED_HASH_PREFIX}{handle.cache_key}"
        if MODALITY in hashes:
            hashes[MODALITY] = [key]
        if handle.changes_pictures and "image" in hashes:
            hashes["image"] = [f"{key}:{_digest(stock)}" for stock in hashes["image"]]
        return hashes

    # Data -----------------------------------------------------------------------------------------------

    def _get_hf_mm_inputs(self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]) -> Any:
        """Puts the frame on before any family's processor looks at a picture, its size included."""
        given = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        handle = _IN_PROCESS.get()
        if handle is None or handle.frame is None or "images" not in given.hf_data:
            return given
        framed = [_put_handles_frame(picture, handle) for picture in given.hf_data["images"]]
        return given._replace(
            hf_data={**given.hf_data, "images": framed}, hf_kwargs={**given.hf_kwargs, "do_rescale": False}
        )

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        handle = _IN_PROCESS.get()
        counts = mm_items.get_all_counts()
        if counts.get("image") and handle is not None and handle.changes_pictures:
            _check_pictures(mm_items["image"].get_processor_data(), handle)
        made = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        if pictures := counts.get("image"):
            seen_by = handle if handle is not None and handle.changes_pictures else None
            made[PICTURE_TICKET_FIELD] = make_ticket(seen_by).repeat(pictures, 1)
        if counts.get(MODALITY):
            own: TaskHandle = mm_items[MODALITY][0]
            made[PROMPT_ROWS_FIELD] = make_rows(own).unsqueeze(0)
            made[PROMPT_TICKET_FIELD] = make_ticket(own).unsqueeze(0)
        return made

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {
            **super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs),
            PROMPT_ROWS_FIELD: MultiModalFieldConfig.batched(MODALITY, keep_on_cpu=True),
            PROMPT_TICKET_FIELD: MultiModalFieldConfig.batched(MODALITY, keep_on_cpu=True),
            PICTURE_TICKET_FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    # Tokens ---------------------------------------------------------------------------------------------

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        handle = _IN_PROCESS.get()
        seen = _as_framed(mm_items, handle)
        updates = list(super()._get_prompt_updates(seen, hf_processor_mm_kwargs, out_mm_kwargs))
        if handle is None:
            return updates
        if handle.extra_image_tokens:
            updates = [_lengthen(update, handle.extra_image_tokens) for update in updates]
        if handle.text_length:
            tokens = [self._placeholder_id] * handle.text_length
            updates.append(PromptInsertion(MODALITY, PromptIndexTargets.start(), tokens))
        return updates

    def _apply_prompt_updates(
        self, token_ids: list[int], mm_prompt_updates: Mapping[str, Sequence[Sequence[Any]]]
    ) -> tuple[list[int], Mapping[str, list[PlaceholderFeaturesInfo]]]:
        """Puts the learned prompt in last and by hand: vLLM 0.32 re-emits the whole prompt where an insertion
        at the start is planned after a replacement."""
        own = mm_prompt_updates.get(MODALITY)
        rest = {name: updates for name, updates in mm_prompt_updates.items() if name != MODALITY}
        ids, places = super()._apply_prompt_updates(token_ids, rest)
        if not own:
            return ids, places
        tokens: list[int] = own[0][0].content.full
        shifted = {
            name: [replace(place, start_idx=place.start_idx + len(tokens)) for place in found]
            for name, found in places.items()
        }
        shifted[MODALITY] = [PlaceholderFeaturesInfo(MODALITY, 0, 0, tokens, None)]
        return [*tokens, *ids], shifted

    @cached_property
    def _placeholder_id(self) -> int:
        config = self.info.get_hf_config()
        generation = self.info.ctx.model_config.try_get_generation_config()
        configs = (config, getattr(config, "text_config", config))
        return choose_placeholder(self.info.get_tokenizer(), configs, generation)


def _digest(stock_hash: str) -> str:
    """Any hash, a client's uuid among them, as hex of one length."""
    return hashlib.sha256(stock_hash.encode()).hexdigest()


def _check_pictures(processor_data: Mapping[str, Any], handle: TaskHandle) -> None:
    if "images" not in processor_data:
        came, cure = "image embeddings", "send the picture itself"
        raise PictureError(fault(f"task {handle.name}", expected="pictures", came=came, cure=cure))


def _as_framed(items: MultiModalDataItems, handle: TaskHandle | None) -> MultiModalDataItems:
    """The items with pictures of the frame's size, for families that count tokens by a picture's size."""
    if handle is None or handle.frame is None or not items.get("image"):
        return items
    canvas = torch.empty(3, *handle.frame.spec.canvas, device="meta")
    framed = ImageProcessorItems([canvas] * items.get_count("image"))
    return MultiModalDataItems({**items, "image": framed})


def _put_handles_frame(picture: object, handle: TaskHandle) -> torch.Tensor:
    """(3, H, W) float32 of one picture; tells the observers how long it took."""
    assert handle.frame is not None
    started = time.perf_counter()
    framed = _put_frame(picture, handle.frame)
    for observe in FRAME_OBSERVERS:
        observe(handle, time.perf_counter() - started)
    return framed


def _put_frame(picture: object, frame: TaskFrame) -> torch.Tensor:
    """(3, H, W) float32, in units of [0, 1] but unbounded."""
    if not isinstance(picture, Image.Image):
        came, cure = type(picture).__name__, "send the picture as PIL or as an image_url"
        raise PictureError(fault("image", expected="a picture of 8 bits to frame", came=came, cure=cure))
    return frame_picture(picture, frame.spec, frame.delta)


def _lengthen(update: PromptUpdate, more: int) -> PromptUpdate:
    """The same replacement with `more` feature tokens for each picture."""
    if update.modality != "image":
        return update
    if not isinstance(update, PromptReplacement) or not isinstance(update.target, list):
        raise EngineError(f"image placeholders of {type(update).__name__} cannot be lengthened")
    stock, token = update.replacement, update.target[0]

    def replacement(item: int) -> list[int]:
        tokens = stock(item) if callable(stock) else stock
        if not isinstance(tokens, list):
            raise EngineError(f"image placeholders of {type(tokens).__name__} cannot be lengthened")
        return [*tokens, *[token] * more]

    return replace(update, replacement=replacement)
