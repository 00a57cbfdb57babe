"""TVP's two regularisers, and a task loss that is the ranking itself. All are means over the batch.

L = L_task + λ₁ · FCA − λ₂ · TSE (TVP, "Exploring the Transferability of Visual Prompting").
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.backbone import Backbone, Features
from training.backbone.pictures import of_canvas
from training.decoding import score_choices
from training.preflight import checkpoint_faults

__all__ = ["JUDGES", "Judge", "feature_consistency", "ranking_loss"]

JUDGES = ("clip", "siglip", "siglip2")
"""Model types that task semantics enrichment can ask."""

CAPTION = "this is a photo of a {answer}"
_MAX_LOG_SCALE = 4.6052


def feature_consistency(framed: Tensor, clean: Tensor) -> Tensor:
    """Feature consistency alignment: mean over batch and tokens of ‖framed − clean‖₂ (not squared).

    Args:
        framed, clean: (…, d), features as the language model receives them, with and without the frame.
    """
    return torch.linalg.vector_norm(framed.float() - clean.float(), dim=-1).mean()


def ranking_loss(
    backbone: Backbone,
    questions: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    features: Features,
) -> Tensor:
    """Cross-entropy of the right candidate among all of its question's; a float32 scalar.

    A candidate's logit is its mean log-likelihood per token, by which answers are ranked: what is trained is
    what is measured. The paper trains the answer's tokens against the vocabulary.

    Args:
        questions: B prompts as token ids.
        candidates: token ids of each question's candidates, the right one first.
    """
    scores = score_choices(backbone, questions, candidates, features=features)
    return -torch.stack([row.log_softmax(0)[0] for row in scores]).mean()


def _refused(expected: str, came: str, cure: str) -> ConfigError:
    return ConfigError("train", [fault("tvp.clip", expected=expected, came=came, cure=cure)])


class Judge:
    """Task semantics enrichment: how well a frozen CLIP or SigLIP finds the answer in the framed picture."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        faults = checkpoint_faults("tvp.clip", folder, *JUDGES)
        if faults:
            raise ConfigError("train", faults)
        try:
            model = AutoModel.from_pretrained(folder, dtype=torch.float32)
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            self._image_processor = AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            came = f"{folder}: {str(error).partition(chr(10))[0]}"
            raise _refused("weights, a tokenizer and a processor", came, "download it whole") from error
        if not isinstance(self._image_processor, TorchvisionBackend):
            came = type(self._image_processor).__name__
            raise _refused("an image processor on tensors (torchvision)", came, "use another judge")
        self._model: Any = model.to(device).eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}

    def semantics(self, framed: Tensor, answers: Sequence[str]) -> Tensor:
        """Mean over the batch of exp(logit_scale) · cos(picture, caption), matching pairs only.

        Args:
            framed: (B, 3, H, W) float pictures with the frame, before any normalisation.
            answers: B class names.

        Raises:
            ConfigError: the tokenizer does not know an answer; what it says of it would mean nothing.
        """
        inputs = of_canvas(self._image_processor, framed)
        pictures = F.normalize(self._model.get_image_features(inputs.pixels).pooler_output, dim=-1)
        texts = torch.stack([self._embedding(answer) for answer in answers])
        scale = self._model.logit_scale.clamp(max=_MAX_LOG_SCALE).exp().reshape(())  # SigLIP's is (1,)
        return scale * (pictures * texts).sum(-1).mean()

    @torch.no_grad()
    def _embedding(self, answer: str) -> Tensor:
        """The caption's unit embedding (d,), computed once per class."""
        if answer not in self._known:
            config = self._model.config
            ids = self._tokenizer(
                CAPTION.format(answer=answer),
                # SigLIP was trained on captions padded to one length, and reads the last place.
                padding="max_length" if config.model_type.startswith("siglip") else False,
                truncation=True,
                max_length=config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            unknown = self._tokenizer.unk_token_id
            if unknown is not None and unknown in ids["input_ids"]:
                expected, came = "a judge whose tokenizer knows every answer", f"none for {shown(answer)}"
                raise _refused(expected, came, "use another, or set lambda_tse: 0")
            inputs = {name: ids[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
            if config.model_type.startswith("siglip"):
                del inputs["attention_mask"]
            found = self._model.get_text_features(**inputs).pooler_output
            self._known[answer] = F.normalize(found, dim=-1)[0]
        return self._known[answer]
