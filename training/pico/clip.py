"""Tiny CLIPs: a tower beside a two-layer text encoder over the words of glyph names (and some more)."""

import functools
from collections.abc import Sequence

import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from training.pico.glyphs import eligible_glyphs, load_split

__all__ = ["caption_ids", "clip_config", "clip_tokenizer", "contrastive_loss", "known_captions"]

_PROMPT = "this is a photo of a {name}"


def clip_config(vision: CLIPVisionConfig, *more_words: str) -> CLIPConfig:
    """A CLIP around this tower."""
    text = CLIPTextConfig(
        vocab_size=len(clip_tokenizer(*more_words)),
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
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)


@functools.cache
def clip_tokenizer(*more_words: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the caption template, the words of eligible glyphs' names, and more."""
    words = {word for glyph in eligible_glyphs() for word in glyph.name.replace("-", " ").split()}
    words |= {*_PROMPT.format(name="").split(), *more_words}
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
def known_captions() -> dict[str, Tensor]:
    """The captions of all known names as the text encoder's input, by name order of the split."""
    return caption_ids([glyph.name for glyph in load_split()["known"]])


def caption_ids(names: Sequence[str], *more_words: str) -> dict[str, Tensor]:
    """Captions as the text encoder's input, `input_ids` and `attention_mask` (N, T)."""
    texts = [_PROMPT.format(name=name) for name in names]
    captions = dict(clip_tokenizer(*more_words)(texts, padding=True, return_tensors="pt"))
    captions.pop("token_type_ids", None)
    return captions


def contrastive_loss(clip: CLIPModel, pooled: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of pictures (B, width) against the captions of all N names; targets (B, N) sum to 1."""
    pictures = F.normalize(clip.visual_projection(pooled), dim=-1)
    texts = F.normalize(clip.text_projection(clip.text_model(**known_captions()).pooler_output), dim=-1)
    scale = clip.logit_scale.exp().clamp(max=100.0)
    return -(targets * F.log_softmax(scale * pictures @ texts.T, dim=-1)).sum(1).mean()
