"""Tiny random checkpoints of the other families, made offline in a second, of the sizes of the tiny LLaVA."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    Idefics3VisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    OPTConfig,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from tests.engine.tiny_llava import (
    CHAT_TEMPLATE,
    HIDDEN,
    IMAGE_SIZE,
    LAYERS,
    PATCHES,
    make_text_config,
    make_tokenizer,
    make_vision_config,
    use_hub_names,
)

__all__ = [
    "QUERIES",
    "TILE_TOKENS",
    "make_tiny_blip2",
    "make_tiny_idefics3",
    "make_tiny_onevision",
    "make_tiny_smolvlm",
]

QUERIES = 6
"""Tokens of a picture in the tiny BLIP-2."""
_SHUFFLE = 2
TILE_TOKENS = PATCHES // _SHUFFLE**2
"""Tokens of a tile in the tiny Idefics3 and SmolVLM."""
_TILED = {"size": {"longest_edge": 2 * IMAGE_SIZE}, "max_image_size": {"longest_edge": IMAGE_SIZE}}


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


def make_tiny_idefics3(folder: Path) -> Path:
    """Idefics3, a picture in up to 2 × 2 tiles and as a whole."""
    tokenizer = _save_tiled(folder, Idefics3ForConditionalGeneration, Idefics3Config, Idefics3VisionConfig)
    Idefics3Processor(
        Idefics3ImageProcessor(**_TILED), tokenizer, image_seq_len=TILE_TOKENS, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
    return folder


def make_tiny_smolvlm(folder: Path) -> Path:
    """SmolVLM, alike but for its own classes and a processor of videos; other weights by chance."""
    tokenizer = _save_tiled(folder, SmolVLMForConditionalGeneration, SmolVLMConfig, SmolVLMVisionConfig)
    SmolVLMProcessor(
        SmolVLMImageProcessor(**_TILED),
        tokenizer,
        SmolVLMVideoProcessor(**_TILED),
        image_seq_len=TILE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _save_tiled(folder: Path, model_class: Any, config_class: Any, vision_class: Any) -> Any:
    """The checkpoint; returns the tokenizer that its processor needs."""
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = make_tokenizer("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows)
    config = config_class(
        vision_config=make_vision_config(vision_class, initializer_range=0.15),
        text_config=make_text_config(LlamaConfig),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=_SHUFFLE,
        pad_token_id=0,
    )
    _save(folder, lambda: model_class(config))
    return tokenizer


def make_tiny_blip2(folder: Path) -> Path:
    """BLIP-2 with OPT. A prompt has no mark for a picture: its tokens come before the text."""
    tokenizer = make_tokenizer(names_image=False)
    text = OPTConfig(
        vocab_size=384,
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,  # vLLM's CPU attention wants heads of 32 at least
        max_position_embeddings=1024,
        init_std=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = Blip2Config(
        vision_config=make_vision_config(Blip2VisionConfig, initializer_range=0.15),
        qformer_config=Blip2QFormerConfig(
            vocab_size=384,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.15,
        ),
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.15,
    )

    def build() -> Blip2ForConditionalGeneration:
        model = Blip2ForConditionalGeneration(config)
        torch.nn.init.normal_(model.query_tokens)  # zeros as transformers makes them: all would ask the same
        return model

    _save(folder, build)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=QUERIES).save_pretrained(folder)
    return folder


def _save(folder: Path, build: Callable[[], Any]) -> None:
    """Builds the model from one seed and saves it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
