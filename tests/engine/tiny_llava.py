"""A tiny random LLaVA checkpoint, made offline in a second: tokenizer, tower, projector, Llama.

Weights are drawn wide enough that prompts move the answer, and named as the hub names them
(`vision_tower.vision_model.…`), which vLLM and transformers both read.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

__all__ = [
    "CHAT_TEMPLATE",
    "HIDDEN",
    "IMAGE_SIZE",
    "LAYERS",
    "PATCHES",
    "PATCH_SIZE",
    "VISION_HIDDEN",
    "VISION_LAYERS",
    "VOCABULARY",
    "make_text_config",
    "make_tiny_llava",
    "make_tokenizer",
    "make_vision_config",
    "use_hub_names",
]

HIDDEN, LAYERS = 64, 3
VOCABULARY = 384
VISION_HIDDEN, VISION_LAYERS = 48, 4
IMAGE_SIZE, PATCH_SIZE = 56, 14
PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2

_CORPUS = [
    "USER: what digit is this? ASSISTANT: seven",
    "USER: name the bird in the picture. ASSISTANT: a heron by the water",
    "USER: hello there, how are you today? ASSISTANT: well, thank you",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: "
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_tiny_llava(
    folder: Path,
    *,
    tower: Literal["clip", "siglip"] = "clip",
    seed: int = 0,
    vision_feature_layer: int = -2,
    vision_feature_select_strategy: str | None = None,
) -> Path:
    """Writes the checkpoint into `folder` and returns it; the same arguments give the same bytes.

    The selection strategy defaults to the tower's usual one: "default" (drop CLS) for CLIP, "full" otherwise.
    """
    strategy = vision_feature_select_strategy or ("default" if tower == "clip" else "full")
    tokenizer = make_tokenizer()
    config = _make_config(tokenizer, tower, vision_feature_layer, strategy)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.save_pretrained(folder)
    use_hub_names(folder, "LlavaForConditionalGeneration")
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=side),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy=strategy,
        image_token="<image>",
        num_additional_image_tokens=1 if tower == "clip" else 0,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def make_tokenizer(
    *more: str, image_token: str = "<image>", names_image: bool = True
) -> PreTrainedTokenizerFast:
    """At most 384 tokens, `image_token` and the `more` special ones among them; pad, bos, eos are 0, 1, 2.

    `names_image`: whether it says which token is a picture's.
    """
    special = ["<pad>", "<s>", "</s>", image_token, "<unk>", *more]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_CORPUS * 10, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": image_token} if names_image else {},
        chat_template=CHAT_TEMPLATE,
    )


def _make_config(
    tokenizer: PreTrainedTokenizerFast, tower: str, feature_layer: int, strategy: str
) -> LlavaConfig:
    vision = make_vision_config(CLIPVisionConfig if tower == "clip" else SiglipVisionConfig)
    text = make_text_config(LlamaConfig)
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy,
        image_seq_length=PATCHES,
        initializer_range=0.15,
        tie_word_embeddings=False,
    )


def make_vision_config(kind: type, **options: Any) -> Any:
    """A tower of the tiny size: `VISION_LAYERS` layers of `VISION_HIDDEN`."""
    return kind(
        hidden_size=VISION_HIDDEN,
        intermediate_size=96,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        **options,
    )


def make_text_config(kind: type, **options: Any) -> Any:
    """A Llama-like language model of the tiny size: `LAYERS` layers of `HIDDEN`."""
    return kind(
        vocab_size=384,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,  # vLLM's CPU attention wants heads of 32 at least
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        **options,
    )


def use_hub_names(folder: Path, architecture: str) -> None:
    """Renames the tower's tensors; transformers 5 saves `vision_tower.encoder…`. Names the architecture."""
    file = folder / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        head, found, rest = name.partition("vision_tower.")
        if found and not rest.startswith("vision_model."):
            name = f"{head}vision_tower.vision_model.{rest}"
        renamed[name] = tensor
    save_file(renamed, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [architecture]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
