"""BLIP-2's layout: a ViT, a Q-Former whose queries ask it, one linear layer, OPT or Llama.

Vision prompts go into the ViT in mode `paper`: the Q-Former asks the base model's rows alone. Which of them
mode `released` would show it no one has said. OPT adds position embeddings to its input; the hook on layer 0
comes after that, so a prompt token's state is its row and nothing else. Written for vLLM 0.32
(`vllm.model_executor.models`: `blip2`, `blip`, `opt`, `llama`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from vllm.model_executor.models.blip2 import (
    Blip2DummyInputsBuilder,
    Blip2ForConditionalGeneration,
    Blip2MultiModalProcessor,
    Blip2ProcessingInfo,
)
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.opt import OPTForCausalLM
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.multimodal import MULTIMODAL_REGISTRY

from prompts.errors import UnsupportedError
from server.engine.families.base import VisionLayout
from server.engine.families.stock_pictures import StockPictures
from server.engine.processing import PromptDummyMixin, PromptInfoMixin, PromptProcessorMixin

__all__ = ["PromptedBlip2"]

_NO_RELEASED = "the language model of BLIP-2 gets the Q-Former's queries, never a patch; train in mode paper"


class PromptedBlip2Info(PromptInfoMixin, Blip2ProcessingInfo):
    """What pictures and prompts a request may hold."""


class PromptedBlip2Dummies(PromptDummyMixin, Blip2DummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedBlip2Processor(PromptProcessorMixin, Blip2MultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedBlip2Processor, info=PromptedBlip2Info, dummy_inputs=PromptedBlip2Dummies
)
class PromptedBlip2(StockPictures, Blip2ForConditionalGeneration):
    """`Blip2ForConditionalGeneration` with learned prompts."""

    config: Any
    language_model: Any
    language_projection: Any
    vision_model: Any

    def find_decoder_layers(self) -> Sequence[nn.Module]:
        text, language = self.config.text_config, self.language_model
        if isinstance(language, LlamaForCausalLM):
            return list(language.model.layers)
        if not isinstance(language, OPTForCausalLM):
            came = type(language).__name__
            expected = "OPT or Llama as BLIP-2's language model"
            raise UnsupportedError(f"text_config: expected {expected}, came {came}")
        if text.word_embed_proj_dim != text.hidden_size:
            raise UnsupportedError(
                f"text_config.word_embed_proj_dim: expected {text.hidden_size}, the hidden size, came "
                f"{text.word_embed_proj_dim}; learned prompts do not work with this OPT"
            )
        return list(language.model.decoder.layers)

    def find_vision(self) -> VisionLayout | str:
        tower, config = self.vision_model, self.config.vision_config
        if isinstance(tower, StageMissingLayer):
            return "pictures are switched off (limit_mm_per_prompt)"
        layers = list(tower.encoder.layers)
        return VisionLayout(
            tower.encoder, layers, config.hidden_size, config.num_hidden_layers, released_refusal=_NO_RELEASED
        )

    def find_projector_module(self) -> nn.Module | None:
        module: nn.Module = self.language_projection
        return module

    def run_projector(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        return functional.linear(features, projector["weight"], projector["bias"])
