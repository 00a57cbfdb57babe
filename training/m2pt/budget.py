"""The memory that a job needs in each process, worked out term by term before anything is loaded.

    python -m training.m2pt.budget --config FILE [--processes N] [--set key=value]

Terms are upper bounds for a batch of examples of `max_length` rows, in bytes; CUDA's own few hundred
megabytes and what its allocator leaves between tensors come on top.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from prompts.deep import M2PTSizes, choose_layers, count_parameters
from training.config import M2ptConfig, read_config

__all__ = ["Budget", "expected_memory", "kept_in_layer", "kept_in_tower_layer", "main", "trained_values"]

_BF16, _FLOAT32 = 2, 4
_LEARNED = {"values": 4, "gradients": 4, "moments": 8, "copies": 2}
"""Bytes for a learned value: float32 itself and its gradient, AdamW's two moments, its copy in bfloat16."""
_GATHERED_LAYERS = 2
"""Of a shared-out model: the layer at work and the next one, already on its way."""


@dataclass(frozen=True)
class Budget:
    """Bytes in one process.

    Attributes:
        weights: of the frozen model, this process's share of it where it is shared out.
        gathered: layers of a shared-out model that are whole for a moment.
        learned: values with their gradients, moments and copies.
        layers: what all layers keep for the way back: their inputs with checkpointing, else all of it.
        one_layer: what the layer at work needs beside that.
        logits: of the answers, with their gradient.
    """

    weights: int
    gathered: int
    learned: int
    layers: int
    one_layer: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        named = {field.name: getattr(self, field.name) for field in fields(self)} | {"total": self.total}
        return "\n".join(f"{name.replace('_', ' '):<14}{size / 1e9:7.2f} GB" for name, size in named.items())


def expected_memory(model: Any, config: M2ptConfig, *, processes: int = 1) -> Budget:
    """What each process of a job on a bfloat16 base will hold at its worst moment.

    Args:
        model: `LlavaForConditionalGeneration`, on the meta device for all that matters here.
    """
    text, tower = model.config.text_config, model.config.vision_config
    batch = -(-config.batch // processes)
    rows = config.m2pt.max_length
    patches = (tower.image_size // tower.patch_size) ** 2
    tower_rows = 1 + patches + config.m2pt.vision_length
    layers = _size(model.get_decoder().layers)
    share = -(-layers // processes) if config.shard else layers
    per_layer = -(-layers // text.num_hidden_layers)
    inside = batch * rows * kept_in_layer(text)
    inputs = batch * rows * text.hidden_size * _BF16
    tower_inside = batch * tower_rows * kept_in_tower_layer(tower)
    tower_inputs = batch * tower_rows * tower.hidden_size * _BF16
    kept = text.num_hidden_layers * (inputs if config.gradient_checkpointing else inside)
    if config.m2pt.vision_length:  # else nothing of the tower is needed on the way back
        kept += tower.num_hidden_layers * (tower_inputs if config.gradient_checkpointing else tower_inside)
    answers = batch * max(1, rows - patches)
    return Budget(
        weights=_BF16 * (_size(model) - layers + share),
        gathered=_BF16 * _GATHERED_LAYERS * per_layer if config.shard else 0,
        learned=sum(_LEARNED.values()) * trained_values(model, config).total,
        layers=kept,
        one_layer=(1 + config.gradient_checkpointing) * inside,
        logits=answers * text.vocab_size * (_BF16 + 2 * _FLOAT32),
    )


def kept_in_layer(text: Any) -> int:
    """Bytes that a frozen Llama layer in bfloat16 keeps for the way back, for each of its rows.

    Two norms keep their input in float32; attention its queries, keys, values and result; the MLP its gate
    before and after the activation, and what it is multiplied with. A frozen weight's input is not kept.
    """
    hidden, keys = text.hidden_size, text.num_key_value_heads * text.head_dim
    queries = text.num_attention_heads * text.head_dim
    return 2 * _FLOAT32 * hidden + _BF16 * (2 * queries + 2 * keys + 3 * text.intermediate_size)


def kept_in_tower_layer(tower: Any) -> int:
    """The same of a CLIP layer: its norms' inputs, attention as above, the MLP's gate (quick GELU) twice."""
    return _BF16 * (6 * tower.hidden_size + 2 * tower.intermediate_size)


def trained_values(model: Any, config: M2ptConfig) -> M2PTSizes:
    """How many values a job learns (an MLP of `reparametrisation` not among them: the bundle has none)."""
    text, tower, options = model.config.text_config, model.config.vision_config, config.m2pt
    return count_parameters(
        text_layers=len(choose_layers(options.text_layers, text.num_hidden_layers)),
        text_length=options.text_length,
        text_hidden=text.hidden_size,
        vision_layers=len(choose_layers(options.vision_layers, tower.num_hidden_layers)),
        vision_length=options.vision_length,
        vision_hidden=tower.hidden_size,
        projector_parameters=_size(model.model.multi_modal_projector) if options.projector else 0,
        lm_head_parameters=_size(model.get_output_embeddings()) if options.lm_head else 0,
    )


def _size(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the terms for a config; of its model the config.json alone is read."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    parser = argparse.ArgumentParser(prog="python -m training.m2pt.budget", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job, as YAML")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="as torchrun will start them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one field")
    options = parser.parse_args(argv)
    config = read_config(M2ptConfig, options.config, options.set)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(AutoConfig.from_pretrained(config.model))
    print(expected_memory(model, config, processes=options.processes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
