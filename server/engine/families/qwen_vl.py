"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: text prompts, and frames around pictures.

Positions are of three axes (M-RoPE): prompt tokens count as text, so they take the first positions on each
axis and all else moves up by P_t. Pictures come in any size and attend through packed sequences with rotary
positions, which has no place for rows in front: vision prompts are refused.

Written for vLLM 0.32: it asks `get_mrope_input_positions` once a request, and with Qwen3-VL each row merged
into the input is H·(1 + levels) wide, the deepstack levels behind the input.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from server.engine.families.base import PromptedModel
from server.engine.handles import MODALITY
from server.engine.processing import PromptDummyMixin, PromptInfoMixin, PromptProcessorMixin

__all__ = ["PromptedQwen2VL", "PromptedQwen3VL", "PromptedQwen25VL"]


class PromptedQwenVL(PromptedModel):
    """What the three have in common; goes before vLLM's class."""

    language_model: Any

    supports_mm_device_do_normalize = False
    """Pictures are normalised before they reach the worker: a framed one is not of the 8 bits that vLLM would
    else send."""

    def find_decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.language_model.model.layers)

    def find_vision(self) -> str:
        return "vision prompts do not work with Qwen-VL's encoder (packed pictures, rotary positions)"

    def find_projector(self) -> str:
        return "Qwen-VL merges patches where LLaVA has a projector; a task cannot bring its own"

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """vLLM's positions, (3, T), and their delta; what is no picture or video to it is text."""
        pictures = [feature for feature in mm_features if feature.modality != MODALITY]
        stock: Any = super()
        return stock.get_mrope_input_positions(input_tokens, pictures)


class PromptedQwen2VLInfo(PromptInfoMixin, Qwen2VLProcessingInfo):
    """Pictures, videos and the prompt."""


class PromptedQwen2VLDummies(PromptDummyMixin, Qwen2VLDummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedQwen2VLProcessor(PromptProcessorMixin, Qwen2VLMultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedQwen2VLProcessor, info=PromptedQwen2VLInfo, dummy_inputs=PromptedQwen2VLDummies
)
class PromptedQwen2VL(PromptedQwenVL, Qwen2VLForConditionalGeneration):
    """`Qwen2VLForConditionalGeneration` with learned prompts."""


class PromptedQwen25VLInfo(PromptInfoMixin, Qwen2_5_VLProcessingInfo):
    """Pictures, videos and the prompt."""


class PromptedQwen25VLDummies(PromptDummyMixin, Qwen2_5_VLDummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedQwen25VLProcessor(PromptProcessorMixin, Qwen2_5_VLMultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedQwen25VLProcessor, info=PromptedQwen25VLInfo, dummy_inputs=PromptedQwen25VLDummies
)
class PromptedQwen25VL(PromptedQwenVL, Qwen2_5_VLForConditionalGeneration):
    """`Qwen2_5_VLForConditionalGeneration` with learned prompts."""


class PromptedQwen3VLInfo(PromptInfoMixin, Qwen3VLProcessingInfo):
    """Pictures, videos and the prompt."""


class PromptedQwen3VLDummies(PromptDummyMixin, Qwen3VLDummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedQwen3VLProcessor(PromptProcessorMixin, Qwen3VLMultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedQwen3VLProcessor, info=PromptedQwen3VLInfo, dummy_inputs=PromptedQwen3VLDummies
)
class PromptedQwen3VL(PromptedQwenVL, Qwen3VLForConditionalGeneration):
    """`Qwen3VLForConditionalGeneration` with learned prompts."""

    visual_dim: int
    multiscale_dim: int

    def count_embedding_width(self) -> int:
        return self.visual_dim + self.multiscale_dim
