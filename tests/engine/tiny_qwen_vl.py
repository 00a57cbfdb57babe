"""Tiny random Qwen-VL checkpoints, and their oracle: M-RoPE and deepstack as plain transformers has them.

The decoder is as wide and deep as the tiny LLaVA's.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from prompts.bundle import Bundle
from prompts.frame import frame_picture
from tests.engine.decoder_oracle import DecoderOracle
from tests.engine.tiny_llava import HIDDEN, make_tokenizer
from tests.engine.tiny_text import DECODER

__all__ = ["FAMILIES", "QwenVLOracle", "make_tiny_qwen_vl"]

Family = Literal["qwen2-vl", "qwen2.5-vl", "qwen3-vl"]

_VISION = {"depth": 3, "num_heads": 2, "patch_size": 14, "initializer_range": 0.15}
_WIDE = {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 64}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_SIDES = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 20}
"""Pixels of a picture at least and at most."""

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2-vl": {
        "config": Qwen2VLConfig,
        "model": Qwen2VLForConditionalGeneration,
        "processor": Qwen2VLProcessor,
        "video": Qwen2VLVideoProcessor,
        "vision": {**_VISION, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2},
        "text": {},
        "rope": {},
    },
    "qwen2.5-vl": {
        "config": Qwen2_5_VLConfig,
        "model": Qwen2_5_VLForConditionalGeneration,
        "processor": Qwen2_5_VLProcessor,
        "video": Qwen2VLVideoProcessor,
        "vision": {**_VISION, **_WIDE, "window_size": 56, "fullatt_block_indexes": [1]},
        "text": {},
        "rope": {},
    },
    "qwen3-vl": {
        "config": Qwen3VLConfig,
        "model": Qwen3VLForConditionalGeneration,
        "processor": Qwen3VLProcessor,
        "video": Qwen3VLVideoProcessor,
        "vision": {**_VISION, **_WIDE, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        "text": {"head_dim": HIDDEN // 2},
        "rope": {"mrope_interleaved": True},
    },
}


def make_tiny_qwen_vl(folder: Path, family: Family, *, seed: int = 0) -> Path:
    """Writes the checkpoint into `folder` and returns it; the same arguments give the same bytes."""
    parts = FAMILIES[family]
    names = ["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer = make_tokenizer(*names, image_token="<|image_pad|>")
    start, end, video, image = tokenizer.convert_tokens_to_ids([*names, "<|image_pad|>"])
    config = parts["config"](
        vision_config=parts["vision"],
        text_config={**DECODER, **parts["text"], "rope_parameters": {**_ROPE, **parts["rope"]}},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = parts["model"](config)
    model.generation_config.eos_token_id = DECODER["eos_token_id"]
    model.save_pretrained(folder)
    parts["processor"](
        image_processor=Qwen2VLImageProcessor(size=_SIDES, patch_size=14),
        tokenizer=tokenizer,
        video_processor=parts["video"](size=_SIDES, patch_size=14),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    return folder


class QwenVLOracle(DecoderOracle):
    """One checkpoint in fp32. `see`: grids (n, 3), features of each picture and of each deepstack level."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.decoder, self.lm_head = self.model.model.language_model, self.model.lm_head
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.config = self.model.config

    def see(self, pictures: list[Image.Image], bundle: Bundle | None) -> Any:
        if not pictures:
            return None
        process = self.processor.image_processor
        if bundle is not None and bundle.frame_delta is not None:
            framed = [frame_picture(one, bundle.manifest.frame, bundle.frame_delta) for one in pictures]
            made = process(framed, do_rescale=False, return_tensors="pt")
        else:
            made = process(pictures, return_tensors="pt")
        grids = made["image_grid_thw"]
        seen = self.model.model.get_image_features(made["pixel_values"], grids)
        levels = getattr(seen, "deepstack_features", None) or []
        return grids, seen.pooler_output, [torch.cat(level) for level in levels]

    def read(self, ids: list[int], seen: Any, learned: int) -> tuple[Tensor, dict[str, Any]]:
        grids, features, levels = seen or (None, [], [])
        left = [len(one) for one in features]
        image = self.config.image_token_id
        whole = [one for token in ids for one in [token] * (left.pop(0) if token == image else 1)]
        assert not left
        tokens = torch.tensor(whole)
        rows = self.decoder.embed_tokens(tokens)
        if features:
            rows = rows.masked_scatter((tokens == image)[:, None], torch.cat(list(features)))
        more: dict[str, Any] = {"position_ids": self._positions(tokens, grids, learned)}
        if levels:
            front = torch.zeros(learned, dtype=torch.bool)
            more["visual_pos_masks"] = torch.cat([front, tokens == image])[None]
            more["deepstack_visual_embeds"] = levels
        return rows, more

    def _positions(self, tokens: Tensor, grids: Tensor | None, learned: int) -> Tensor:
        """(3, 1, P + T): text positions 0..P-1, then the prompt's own moved up by P."""
        kinds = (tokens == self.config.image_token_id).int()
        own, _ = self.model.model.get_rope_index(tokens[None], kinds[None], grids)
        front = torch.arange(learned).expand(3, 1, learned)
        return torch.cat([front, own + learned], dim=-1)
