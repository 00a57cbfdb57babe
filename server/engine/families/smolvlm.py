"""Idefics3's and SmolVLM's layout: a SigLIP-like tower that sees a picture in tiles and as a whole, pixel
shuffle and one linear layer, a Llama-like language model.

Pixel shuffle takes each tile's rows as a square grid, so vision prompts are served in mode `paper` alone: the
tower leaves the prompt rows out of what it hands on. Written for vLLM 0.32 (`vllm.model_executor.models`:
`idefics3`, `smolvlm`, `idefics2_vision_model`), whose tower runs here without an attention mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm.model_executor.models.idefics3 import (
    Idefics3DummyInputsBuilder,
    Idefics3ForConditionalGeneration,
    Idefics3MultiModalProcessor,
    Idefics3ProcessingInfo,
)
from vllm.model_executor.models.smolvlm import SmolVLMProcessingInfo
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.multimodal import MULTIMODAL_REGISTRY

from server.engine.families.base import VisionLayout
from server.engine.families.stock_pictures import StockPictures
from server.engine.processing import PromptDummyMixin, PromptInfoMixin, PromptProcessorMixin

__all__ = ["PromptedIdefics3", "PromptedSmolVlm"]

_NO_RELEASED = "pixel shuffle takes the patches of a tile as a square grid; train in mode paper"


class PromptedIdefics3Info(PromptInfoMixin, Idefics3ProcessingInfo):
    """What pictures and prompts a request may hold."""


class PromptedSmolVlmInfo(PromptInfoMixin, SmolVLMProcessingInfo):
    """What pictures and prompts a request may hold."""


class PromptedIdefics3Dummies(PromptDummyMixin, Idefics3DummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedIdefics3Processor(PromptProcessorMixin, Idefics3MultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedIdefics3Processor, info=PromptedIdefics3Info, dummy_inputs=PromptedIdefics3Dummies
)
class PromptedIdefics3(StockPictures, Idefics3ForConditionalGeneration):
    """`Idefics3ForConditionalGeneration` with learned prompts."""

    config: Any
    model: Any

    def find_decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.text_model.layers)

    def find_vision(self) -> VisionLayout | str:
        tower, config = self.model.vision_model, self.config.vision_config
        if isinstance(tower, StageMissingLayer):
            return "pictures are switched off (limit_mm_per_prompt)"
        if tower.apply_encoder_attention_mask:
            return "vision prompts do not work with a tower that masks its attention"
        layers = list(tower.encoder.layers)
        return VisionLayout(
            tower.encoder, layers, config.hidden_size, config.num_hidden_layers, released_refusal=_NO_RELEASED
        )

    def find_projector_module(self) -> nn.Module | None:
        connector = self.model.connector
        return None if isinstance(connector, StageMissingLayer) else connector.modality_projection

    def run_projector(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        return functional.linear(features, projector["proj.weight"])

    def select_pictures(self, kwargs: Mapping[str, Any], members: list[int]) -> dict[str, Any]:
        """As `StockPictures`; pixels and their mask hold the tiles of all pictures one after the other."""
        counts = kwargs["num_patches"]
        tiles = {
            name: kwargs[name].split(counts.tolist()) for name in ("pixel_values", "pixel_attention_mask")
        }
        chosen = {name: torch.cat([of[index] for index in members]) for name, of in tiles.items()}
        return {**chosen, "num_patches": counts[members]}


@MULTIMODAL_REGISTRY.register_processor(
    PromptedIdefics3Processor, info=PromptedSmolVlmInfo, dummy_inputs=PromptedIdefics3Dummies
)
class PromptedSmolVlm(PromptedIdefics3):
    """`SmolVLMForConditionalGeneration` with learned prompts: vLLM's is its Idefics3 under another name."""
