"""The parity oracle for any model family: its decoder as plain transformers, learned rows put in front.

Text prompts only (and frames, where a family reads pictures); whole recompute for every token. It shares no
code with `server/`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompts.bundle import Bundle
from tests.engine.oracle import Answer, overwriting, prefix_cache

__all__ = ["DecoderOracle", "TextOracle"]


class DecoderOracle(ABC):
    """A family says what its decoder gets for a prompt; the learned rows and the answer are alike for all."""

    decoder: nn.Module
    """Called with `inputs_embeds` (1, T, d); holds `layers`."""
    lm_head: nn.Module
    tokenizer: Any

    @abstractmethod
    def see(self, pictures: list[Image.Image], bundle: Bundle | None) -> Any:
        """What `read` needs of a request's pictures."""

    @abstractmethod
    def read(self, ids: list[int], seen: Any, learned: int) -> tuple[Tensor, dict[str, Any]]:
        """Input rows (T, d) of `ids`, and the decoder's other arguments with `learned` rows in front."""

    @torch.no_grad()
    def answer(
        self, text: str, pictures: list[Image.Image], bundle: Bundle | None = None, *, tokens: int = 8
    ) -> Answer:
        """Greedy answer; `bundle` None is the base model."""
        ids = self.tokenizer(text)["input_ids"]
        seen = self.see(pictures, bundle)
        chosen: list[int] = []
        first: Tensor | None = None
        for _ in range(tokens):
            logits = self._last_logits([*ids, *chosen], seen, bundle)
            first = logits.log_softmax(-1) if first is None else first
            chosen.append(int(logits.argmax()))
        assert first is not None
        return Answer(chosen, first)

    def _last_logits(self, ids: list[int], seen: Any, bundle: Bundle | None) -> Tensor:
        prompts, own = (bundle.text_prompts, bundle.lm_head_weight) if bundle else (None, None)
        cache = prefix_cache(bundle)
        rows, more = self.read(ids, seen, 0 if prompts is None else prompts.shape[1])
        if prompts is not None:
            rows = torch.cat([torch.zeros(prompts.shape[1:]), rows])
        with overwriting(self.decoder.layers, prompts):
            output = self.decoder(
                inputs_embeds=rows[None], past_key_values=cache, use_cache=cache is not None, **more
            )
        state = output.last_hidden_state[0, -1]
        return self.lm_head(state) if own is None else own @ state


class TextOracle(DecoderOracle):
    """A plain language model in fp32."""

    def __init__(self, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.decoder, self.lm_head = model.model, model.lm_head
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def see(self, pictures: list[Image.Image], bundle: Bundle | None) -> None:
        assert not pictures

    def read(self, ids: list[int], seen: Any, learned: int) -> tuple[Tensor, dict[str, Any]]:
        return self.decoder.embed_tokens(torch.tensor(ids)), {}
