"""Tiny random checkpoints of the other families, made offline in a second, of the sizes of the tiny LLaVA."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.engine.tiny_llava import (
    CHAT_TEMPLATE,
    IMAGE_SIZE,
    PATCHES,
    make_text_config,
    make_tokenizer,
    make_vision_config,
    use_hub_names,
)

__all__ = ["make_tiny_onevision"]


def make_tiny_onevision(folder: Path) -> Path:
    """LLaVA-OneVision that sees a picture whole and in up to 2 × 2 tiles."""
    tokenizer = make_tokenizer("<video>")
    sides = (IMAGE_SIZE, 2 * IMAGE_SIZE)
    pinpoints = [[height, width] for height in sides for width in sides]
    config = LlavaOnevisionConfig(
        vision_config=make_vision_config(SiglipVisionConfig, vision_use_head=False),
        text_config=make_text_config(Qwen2Config),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        initializer_range=0.15,
    )
    _save(folder, lambda: LlavaOnevisionForConditionalGeneration(config))
    use_hub_names(folder, "LlavaOnevisionForConditionalGeneration")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=PATCHES,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _save(folder: Path, build: Callable[[], Any]) -> None:
    """Builds the model from one seed and saves it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
