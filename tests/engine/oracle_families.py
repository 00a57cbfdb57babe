"""The parity oracles of the other families: learned prompts as plain transformers, whole recompute per token.

They follow METHODS and share no code with `server/` or `training/`. Tokens and pixels are transformers' own
processor's, which counts a picture's tokens for itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from prompts.bundle import Bundle
from prompts.frame import frame_picture
from tests.engine.oracle import Answer, overwriting

__all__ = ["Blip2Oracle", "FamilyOracle", "Idefics3Oracle", "OnevisionOracle"]


class FamilyOracle(ABC):
    """One checkpoint in fp32."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.config = self.model.config

    @torch.no_grad()
    def answer(
        self, text: str, pictures: list[Image.Image], bundle: Bundle | None = None, *, tokens: int = 8
    ) -> Answer:
        """Greedy answer; `bundle` None is the base model."""
        given = self.inputs(text, pictures, bundle)
        ids = given["input_ids"][0]
        rows = self.model.get_input_embeddings()(ids)
        if pictures:
            rows[ids == self.config.image_token_id] = self.features(given, bundle)
        prompts, own = (bundle.text_prompts, bundle.lm_head_weight) if bundle else (None, None)
        if prompts is not None:
            rows = torch.cat([prompts[0], rows])
        chosen: list[int] = []
        first: Tensor | None = None
        for _ in range(tokens):
            with overwriting(self.decoder_layers(), prompts):
                state = self.states(rows[None])[0, -1]
            logits = self.model.get_output_embeddings()(state) if own is None else own @ state
            first = logits.log_softmax(-1) if first is None else first
            chosen.append(int(logits.argmax()))
            rows = torch.cat([rows, self.model.get_input_embeddings()(torch.tensor(chosen[-1:]))])
        assert first is not None
        return Answer(chosen, first)

    @torch.no_grad()
    def plain_logprobs(self, text: str, pictures: list[Image.Image]) -> Tensor:
        """The base model's first token by transformers' own forward pass, (vocabulary,)."""
        return self.model(**self.inputs(text, pictures, None)).logits[0, -1].log_softmax(-1)

    def inputs(self, text: str, pictures: list[Image.Image], bundle: Bundle | None) -> Any:
        """What transformers' processor makes of them, framed pictures in float."""
        if not pictures:
            return self.processor(text=text, return_tensors="pt")
        if bundle is None or bundle.frame_delta is None:
            return self.processor(text=text, images=pictures, return_tensors="pt")
        framed = [frame_picture(one, bundle.manifest.frame, bundle.frame_delta) for one in pictures]
        return self.processor(text=text, images=framed, do_rescale=False, return_tensors="pt")

    @abstractmethod
    def decoder_layers(self) -> nn.ModuleList:
        """The language model's layers."""

    @abstractmethod
    def states(self, rows: Tensor) -> Tensor:
        """What the output layer gets of input rows (1, T, d), of the same shape."""

    @abstractmethod
    def features(self, given: Any, bundle: Bundle | None) -> Tensor:
        """Rows (n, d) of all the pictures' tokens in `given`, in their order."""


class OnevisionOracle(FamilyOracle):
    """LLaVA-OneVision."""

    def decoder_layers(self) -> nn.ModuleList:
        return self.model.model.language_model.layers

    def states(self, rows: Tensor) -> Tensor:
        return self.model.model.language_model(inputs_embeds=rows).last_hidden_state

    def features(self, given: Any, bundle: Bundle | None) -> Tensor:
        inner, side = self.model.model, self.config.vision_config.image_size
        packed = []
        for tiles, size in zip(given["pixel_values"], given["image_sizes"], strict=True):
            count = image_size_to_num_patches(size, self.config.image_grid_pinpoints, side)
            tower = inner.vision_tower
            hidden = tower.embeddings(tiles[:count])
            states = run_tower(hidden, tower.encoder.layers, bundle, attention_mask=None)
            own = run_projector(inner.multi_modal_projector, states, bundle)
            packed += inner.pack_image_features([own], [size], image_newline=inner.image_newline)[0]
        return torch.cat(packed)


class Idefics3Oracle(FamilyOracle):
    """Idefics3 and SmolVLM, for pictures that fill their tiles: no patch is masked."""

    def decoder_layers(self) -> nn.ModuleList:
        return self.model.model.text_model.layers

    def states(self, rows: Tensor) -> Tensor:
        return self.model.model.text_model(inputs_embeds=rows).last_hidden_state

    def features(self, given: Any, bundle: Bundle | None) -> Tensor:
        tower, connector = self.model.model.vision_model, self.model.model.connector
        assert given["pixel_attention_mask"].all()
        tiles = given["pixel_values"][0]
        grid = tuple(side // self.config.vision_config.patch_size for side in tiles.shape[-2:])
        hidden = tower.embeddings(tiles, torch.ones(len(tiles), *grid, dtype=torch.bool))
        states = run_tower(hidden, tower.encoder.layers, bundle, attention_mask=None)
        states = tower.post_layernorm(states)
        shuffled = connector.pixel_shuffle(states, connector.scale_factor)
        return run_projector(connector.modality_projection, shuffled, bundle).flatten(0, 1)


class Blip2Oracle(FamilyOracle):
    """BLIP-2 with OPT."""

    def decoder_layers(self) -> nn.ModuleList:
        return self.model.language_model.model.decoder.layers

    def states(self, rows: Tensor) -> Tensor:
        return self.model.language_model.model.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state

    def features(self, given: Any, bundle: Bundle | None) -> Tensor:
        tower = self.model.vision_model
        hidden = tower.embeddings(given["pixel_values"])
        states = tower.post_layernorm(run_tower(hidden, tower.encoder.layers, bundle))
        asked = self.model.qformer(query_embeds=self.model.query_tokens, encoder_hidden_states=states)
        return run_projector(self.model.language_projection, asked.last_hidden_state, bundle).flatten(0, 1)


def run_tower(hidden: Tensor, layers: Sequence[nn.Module], bundle: Bundle | None, **given: None) -> Tensor:
    """`hidden` (B, N, d_v) through all layers, with the bundle's vision prompts in mode `paper`.

    `given`: arguments that a layer wants though they say nothing.
    """
    prompts = bundle.vision_prompts if bundle else None
    length = 0 if prompts is None else prompts.shape[1]
    if prompts is not None:
        assert bundle.manifest.vision.mode == "paper"
        hidden = torch.cat([prompts[0].expand(len(hidden), -1, -1), hidden], dim=1)
    for index, layer in enumerate(layers):
        if prompts is not None:
            hidden = torch.cat([prompts[index].expand(len(hidden), -1, -1), hidden[:, length:]], dim=1)
        hidden = layer(hidden, **given)
    return hidden[:, length:]


def run_projector(module: nn.Module, features: Tensor, bundle: Bundle | None) -> Tensor:
    """`features` through the bundle's own projector, where it has one."""
    own = bundle.projector_state() if bundle else {}
    return torch.func.functional_call(module, own, (features,))
