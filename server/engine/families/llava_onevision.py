"""LLaVA-OneVision's layout: a SigLIP tower that sees a picture as a whole and in tiles, `linear_1`/`linear_2`
projector, rows packed with line breaks, a Qwen2-like language model.

Packing takes each tile's rows as a square grid, so vision prompts are served in mode `paper` alone. Videos
are the base model's: a task that changes pictures refuses them. Written for vLLM 0.32
(`vllm.model_executor.models.llava_onevision`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from server.engine.families.base import VisionLayout, run_mlp_projector
from server.engine.families.llava import find_tower
from server.engine.families.stock_pictures import StockPictures
from server.engine.processing import PromptDummyMixin, PromptInfoMixin, PromptProcessorMixin

__all__ = ["PromptedLlavaOnevision"]

_NO_RELEASED = "LLaVA-OneVision packs the patches of a tile as a square grid; train in mode paper"


class PromptedOnevisionInfo(PromptInfoMixin, LlavaOnevisionProcessingInfo):
    """What pictures and prompts a request may hold."""


class PromptedOnevisionDummies(PromptDummyMixin, LlavaOnevisionDummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedOnevisionProcessor(PromptProcessorMixin, LlavaOnevisionMultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedOnevisionProcessor, info=PromptedOnevisionInfo, dummy_inputs=PromptedOnevisionDummies
)
class PromptedLlavaOnevision(StockPictures, LlavaOnevisionForConditionalGeneration):
    """`LlavaOnevisionForConditionalGeneration` with learned prompts."""

    config: Any
    language_model: Any
    multi_modal_projector: Any
    vision_tower: Any

    def find_decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.language_model.model.layers)

    def find_vision(self) -> VisionLayout | str:
        layout = find_tower(self.vision_tower, self.config)
        return layout if isinstance(layout, str) else replace(layout, released_refusal=_NO_RELEASED)

    def find_projector_module(self) -> nn.Module | None:
        module: nn.Module = self.multi_modal_projector
        return module

    def run_projector(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        return run_mlp_projector(features, projector, self.multi_modal_projector.act)
