"""Random LoRA adapters in PEFT's format, as vLLM's multi-LoRA reads them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.materials import Shapes

__all__ = ["make_adapters"]


def make_adapters(shapes: Shapes, folder: Path, count: int, *, rank: int) -> list[Path]:
    """Saves `count` adapters of every linear layer of the language model under `folder`."""
    return [_make_adapter(folder / f"adapter-{number:04}", shapes, number, rank) for number in range(count)]


def _make_adapter(folder: Path, shapes: Shapes, seed: int, rank: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    linear = _linear_layers(shapes.config)
    tensors: dict[str, Tensor] = {}
    for layer in range(shapes.text[0]):
        for module, (out, into) in linear.items():
            name = f"base_model.model.model.language_model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator) / into**0.5
            tensors[f"{name}.lora_B.weight"] = 0.5 * torch.randn(out, rank, generator=generator) / rank**0.5
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in linear}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _linear_layers(config: Any) -> dict[str, tuple[int, int]]:
    """Path in a decoder layer -> (features out, features in) of a Llama-like layer."""
    width, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
