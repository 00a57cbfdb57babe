"""Tiny random checkpoints of plain language models, as wide and deep as the tiny LLaVA's."""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.engine.tiny_llava import HIDDEN, LAYERS, make_tokenizer

__all__ = ["DECODER", "FAMILIES", "make_tiny_text"]

Family = Literal["llama", "qwen2", "qwen3"]

FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": HIDDEN // 2}),
}
DECODER: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,  # vLLM's CPU attention wants heads of 32 at least
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make_tiny_text(folder: Path, family: Family, *, seed: int = 0) -> Path:
    """Writes the checkpoint into `folder` and returns it; the same arguments give the same bytes."""
    config_class, model_class, more = FAMILIES[family]
    config = config_class(**DECODER, **more, tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
