"""Plain language models: Llama, Qwen2, Qwen3. They take text prompts; there is no picture to change.

To carry a learned prompt such a model has to be multimodal to vLLM, with our modality as its only one: it has
no Hugging Face processor, and none is asked for. Written for vLLM 0.32: the registry finds a processor by the
class attribute `_processor_factory`, the renderer builds it from that alone, and multimodal models that have
one of these inside ask the model registry for it by its architecture, with `is_submodel_config` set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import BatchFeature
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptUpdate,
)

from server.engine.families.base import PromptedModel
from server.engine.processing import PromptDummyMixin, PromptInfoMixin, PromptProcessorMixin

__all__ = ["PromptedLlama", "PromptedQwen2", "PromptedQwen3"]

_NO_PICTURES = "the model that is served takes no pictures"


class _TextInfo(BaseProcessingInfo):
    """A model without modalities."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        return {}


class _TextDummies(BaseDummyInputsBuilder):
    """Nothing to warm up with."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return ""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any
    ) -> dict[str, Any]:
        return {}


class _TextProcessor(BaseMultiModalProcessor):
    """Nothing to process."""

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        return []


class PromptedTextInfo(PromptInfoMixin, _TextInfo):
    """Our modality alone."""


class PromptedTextDummies(PromptDummyMixin, _TextDummies):
    """The dummy prompt alone."""


class PromptedTextProcessor(PromptProcessorMixin, _TextProcessor):
    """The learned prompt alone."""


class _MergesEmbeddings(nn.Module):
    """Comes between `PromptedModel` and vLLM's class, whose own `embed_input_ids` takes token ids alone."""

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        return SupportsMultiModal.embed_input_ids(
            self, input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )


@MULTIMODAL_REGISTRY.register_processor(
    PromptedTextProcessor, info=PromptedTextInfo, dummy_inputs=PromptedTextDummies
)
class PromptedText(PromptedModel, _MergesEmbeddings, SupportsMultiModal):
    """Goes before vLLM's class of a plain language model; the processor is inherited with it."""

    model: Any

    def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
        """A model of its own; inside another one, or as a drafter, vLLM's class without anything of ours."""
        if prefix or vllm_config.model_config.is_submodel_config:
            stock: Any = cls.__mro__[cls.__mro__.index(_MergesEmbeddings) + 1]
            return stock(vllm_config=vllm_config, prefix=prefix)
        return super().__new__(cls)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """A chat has no place for an item of any modality: ours stands before it."""
        return None

    def get_language_model(self) -> Any:
        """The decoder, which embeds the tokens."""
        return self.model

    def find_decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.layers)

    def find_vision(self) -> str:
        return _NO_PICTURES

    def find_projector(self) -> str:
        return _NO_PICTURES


class PromptedLlama(PromptedText, LlamaForCausalLM):
    """`LlamaForCausalLM` with learned prompts."""


class PromptedQwen2(PromptedText, Qwen2ForCausalLM):
    """`Qwen2ForCausalLM` (Qwen 1.5, 2, 2.5) with learned prompts."""


class PromptedQwen3(PromptedText, Qwen3ForCausalLM):
    """`Qwen3ForCausalLM` with learned prompts."""
