"""PEFT's own LoRA and prompt tuning in the loop, saved in PEFT's own layout.

The adapters are PEFT's modules in float32 (its default beside a bfloat16 model), and LoRA's arithmetic is
PEFT's forward pass. A prompt of PEFT's prompt tuning enters where PEFT puts it: before the first token, at
the input of the first layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from prompts.manifest import TextSpec
from training.backbone import DeepPrompts, LlavaBackbone
from training.baselines.base import SAVED_DTYPE, Baseline
from training.config import BaselineConfig, LoraConfig, PromptTuningConfig
from training.m2pt.learned import Layout

__all__ = ["LoraAdapters", "TunedPrompt", "load_lora", "new_lora", "new_prompt"]

_EMBEDDINGS = "prompt_embeddings"
"""The tensor's name in PEFT's file."""


class LoraAdapters(Baseline):
    """PEFT's adapters, inside the model."""

    def __init__(self, config: BaselineConfig, model: Any) -> None:
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(config, trained)
        self._model = model

    def save(self, folder: Path) -> None:
        """`adapter_config.json` and `adapter_model.safetensors`."""
        _save(self._model, self.tensors.values(), folder)


class TunedPrompt(Baseline):
    """PEFT's prompt embeddings (P, d), handed to the model as the rows before the first token."""

    def __init__(self, config: BaselineConfig, model: Any, backbone: LlavaBackbone) -> None:
        embedding: nn.Embedding = model.prompt_encoder["default"].embedding
        super().__init__(config, {_EMBEDDINGS: embedding.weight})
        layers, hidden = backbone.text_shape
        spec = TextSpec(layers=layers, length=embedding.num_embeddings, hidden=hidden, at=(0,))
        self._model, self.layout = model, Layout(spec, None)

    def deep(self) -> DeepPrompts:
        """Rows at the input of the first layer; below they go on as the layer before left them."""
        return DeepPrompts(text=self.tensors[_EMBEDDINGS][None], text_at=(0,))

    def save(self, folder: Path) -> None:
        """`adapter_config.json` and `adapter_model.safetensors`."""
        _save(self._model, self.tensors.values(), folder)


def new_lora(config: BaselineConfig, backbone: LlavaBackbone) -> LoraAdapters:
    """Adapters that change nothing yet, on every linear layer of the language model (not on its output)."""
    told = config.learns
    assert isinstance(told, LoraConfig)
    decoder = {id(module) for module in backbone.decoder.modules()}
    linear = [
        name
        for name, module in backbone.model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in decoder
    ]
    adapter = peft.LoraConfig(
        r=told.rank, lora_alpha=told.alpha_over_rank * told.rank, lora_dropout=0.0, target_modules=linear
    )
    with _seeded(config.seed):
        return LoraAdapters(config, peft.get_peft_model(backbone.model, adapter))


def load_lora(backbone: LlavaBackbone, folder: Path) -> None:
    """Puts saved adapters into a model, in its dtype; it is another model from now on."""
    peft.PeftModel.from_pretrained(backbone.model, str(folder), autocast_adapter_dtype=False)


def new_prompt(config: BaselineConfig, backbone: LlavaBackbone) -> TunedPrompt:
    """Embeddings of random tokens, or of the config's text, cut or repeated to the length as PEFT does.

    PEFT's own `TEXT` puts the tokenizer's special tokens before the text; here it stands as it is.
    """
    told = config.learns
    assert isinstance(told, PromptTuningConfig)
    adapter = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=told.length, prompt_tuning_init="SAMPLE_VOCAB"
    )
    with _seeded(config.seed):
        model = peft.get_peft_model(backbone.model, adapter)
    learned = TunedPrompt(config, model.to(backbone.device), backbone)
    if told.init_text is not None:
        ids = list(islice(cycle(backbone.chat.plain_ids(told.init_text)), told.length))
        with torch.no_grad():
            rows = backbone.model.get_input_embeddings()(torch.tensor(ids, device=backbone.device))
            learned.tensors[_EMBEDDINGS].copy_(rows)
    return learned


def _save(model: Any, tensors: Any, folder: Path) -> None:
    for tensor in tensors:
        tensor.data = tensor.data.to(SAVED_DTYPE)
    model.save_pretrained(str(folder), save_embedding_layers=False)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """While open torch draws from this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
