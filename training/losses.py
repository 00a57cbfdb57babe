"""TVP's two regularisers. Both are means over the batch; the trainer weights and adds them.

L = L_task + λ₁ · FCA − λ₂ · TSE (TVP, "Exploring the Transferability of Visual Prompting").
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from prompts.errors import ConfigError
from training.pixels import PixelPipeline
from training.preflight import checkpoint_faults

__all__ = ["ClipJudge", "feature_consistency"]

CAPTION = "this is a photo of a {answer}"
_MAX_LOG_SCALE = 4.6052


def feature_consistency(framed: Tensor, clean: Tensor) -> Tensor:
    """Feature consistency alignment: mean over batch and tokens of ‖framed − clean‖₂ (not squared).

    Args:
        framed, clean: (B, N, d), features as the language model receives them, with and without the frame.
    """
    return torch.linalg.vector_norm(framed.float() - clean.float(), dim=-1).mean()


class ClipJudge:
    """Task semantics enrichment: how well a frozen CLIP finds the answer in the framed picture."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        faults = checkpoint_faults("tvp.clip", folder, "clip")
        if faults:
            raise ConfigError("train", faults)
        clip = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        self._clip = clip.to(device).eval().requires_grad_(False)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._pixels = PixelPipeline.of_processor(AutoImageProcessor.from_pretrained(folder))
        self._known: dict[str, Tensor] = {}

    def semantics(self, framed: Tensor, answers: Sequence[str]) -> Tensor:
        """Mean over the batch of exp(logit_scale) · cos(picture, caption), matching pairs only.

        Args:
            framed: (B, 3, H, W) float pictures with the frame, before any normalisation.
            answers: B class names.
        """
        vision = self._clip.vision_model(self._pixels(framed)).pooler_output
        pictures = F.normalize(self._clip.visual_projection(vision), dim=-1)
        texts = torch.stack([self._embedding(answer) for answer in answers])
        scale = self._clip.logit_scale.clamp(max=_MAX_LOG_SCALE).exp()
        return scale * (pictures * texts).sum(-1).mean()

    @torch.no_grad()
    def _embedding(self, answer: str) -> Tensor:
        """The caption's unit embedding (d,), computed once per class."""
        if answer not in self._known:
            longest, device = self._clip.config.text_config.max_position_embeddings, self._clip.device
            caption = CAPTION.format(answer=answer)
            ids = self._tokenizer(caption, truncation=True, max_length=longest, return_tensors="pt")
            pooled = self._clip.text_model(
                input_ids=ids["input_ids"].to(device), attention_mask=ids["attention_mask"].to(device)
            ).pooler_output
            self._known[answer] = F.normalize(self._clip.text_projection(pooled), dim=-1)[0]
        return self._known[answer]
