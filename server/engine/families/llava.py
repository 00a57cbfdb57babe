"""LLaVA 1.5's layout: a CLIP or SigLIP tower, `linear_1`/`linear_2` projector, a Llama-like language model.

Written for vLLM 0.32 (`vllm.model_executor.models.llava`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PixtralVisionConfig
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.model_executor.models.vision import get_num_selected_vision_tokens, get_vision_encoder_info
from vllm.multimodal import MULTIMODAL_REGISTRY

from prompts.errors import UnsupportedError
from server.engine.families.base import PromptedModel, VisionLayout, run_mlp_projector
from server.engine.processing import PromptDummyMixin, PromptInfoMixin, PromptProcessorMixin

__all__ = ["PromptedLlava", "find_tower"]


class PromptedLlavaInfo(PromptInfoMixin, LlavaProcessingInfo):
    """Refuses Pixtral towers (pictures of any size, row breaks between patches)."""

    def __init__(self, ctx: Any) -> None:
        super().__init__(ctx)
        if isinstance(self.get_hf_config().vision_config, PixtralVisionConfig):
            raise UnsupportedError("vision_config: expected a CLIP or SigLIP tower, came Pixtral's")


class PromptedLlavaDummies(PromptDummyMixin, LlavaDummyInputsBuilder):
    """Dummy pictures and the dummy prompt."""


class PromptedLlavaProcessor(PromptProcessorMixin, LlavaMultiModalProcessor):
    """Pictures, frame and prompt."""


@MULTIMODAL_REGISTRY.register_processor(
    PromptedLlavaProcessor, info=PromptedLlavaInfo, dummy_inputs=PromptedLlavaDummies
)
class PromptedLlava(PromptedModel, LlavaForConditionalGeneration):
    """`LlavaForConditionalGeneration` with learned prompts."""

    config: Any
    language_model: Any
    multi_modal_projector: Any
    vision_tower: Any

    def find_decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.language_model.model.layers)

    def find_vision(self) -> VisionLayout | str:
        return find_tower(self.vision_tower, self.config)

    def find_projector(self) -> dict[str, tuple[int, ...]]:
        config = self.config
        width, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "linear_1.weight": (hidden, width),
            "linear_2.weight": (hidden, hidden),
        }
        if config.multimodal_projector_bias:
            shapes |= {"linear_1.bias": (hidden,), "linear_2.bias": (hidden,)}
        return shapes

    def count_image_tokens(self) -> int:
        info = get_vision_encoder_info(self.config)
        size = info.get_image_size()
        tokens = info.get_num_image_tokens(image_width=size, image_height=size)
        return get_num_selected_vision_tokens(tokens, self.config.vision_feature_select_strategy)

    def encode_pictures(self, **kwargs: object) -> Tensor:
        stock: Any = super()
        pixels = stock._parse_and_validate_image_input(**kwargs)
        features: Tensor = stock._process_image_pixels(pixels)
        return features

    def project_features(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        if not projector:
            projected: Tensor = self.multi_modal_projector(features)
            return projected
        return run_mlp_projector(features, projector, self.multi_modal_projector.act)


def find_tower(tower: Any, config: Any) -> VisionLayout | str:
    """The CLIP or SigLIP encoder of a LLaVA-like model, or why it takes no vision prompts."""
    if isinstance(tower, StageMissingLayer):
        return "pictures are switched off (limit_mm_per_prompt)"
    if not isinstance(config.vision_feature_layer, int):
        return "this model reads several vision layers, and vision prompts work with one"
    strategy = config.vision_feature_select_strategy
    if strategy not in ("default", "full"):
        return f"vision prompts do not work with vision_feature_select_strategy {strategy!r}"
    encoder, vision = tower.vision_model.encoder, config.vision_config
    return VisionLayout(encoder, list(encoder.layers), vision.hidden_size, vision.num_hidden_layers)
