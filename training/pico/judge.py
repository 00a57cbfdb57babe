"""pico-clip: the CLIP that TVP's task semantics enrichment asks, with a tower that no other model here has.

A judge that shared a tower with one of the family would hand its gradient to every frame: that model were no
black box any more. Its text encoder knows names, kinds and counts; each picture is contrasted with the
captions of all names, of all kinds, and of all counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPModel, CLIPVisionConfig

from training.pico.clip import caption_ids, clip_config, clip_tokenizer
from training.pico.glyphs import group_of, load_split
from training.pico.members.member import CLIP_MEAN, CLIP_STD, WEIGHTS_FOLDER
from training.pico.pictures import picture_batches
from training.pico.tasks import CATEGORIES, COUNTS

__all__ = ["JUDGE", "WEIGHTS", "JudgeRecipe", "build_judge", "train_judge"]

JUDGE = "pico-clip"
WEIGHTS = WEIGHTS_FOLDER / JUDGE / "clip.safetensors"
_SEED = 5
_WORDS = (*CATEGORIES, *COUNTS)


@dataclass(frozen=True)
class JudgeRecipe:
    """Its training's settings."""

    steps: int = 2400
    batch: int = 48
    lr: float = 1e-3
    weight_decay: float = 0.05
    several_share: float = 0.35


def _vision_config() -> CLIPVisionConfig:
    """224 px, 32 px patches (7 × 7), 5 layers of 192."""
    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=5,
        num_attention_heads=3,
        image_size=224,
        patch_size=32,
        projection_dim=128,
    )


def _make_model() -> CLIPModel:
    model = CLIPModel(clip_config(_vision_config(), *_WORDS))
    model.set_attn_implementation("eager")  # faster than sdpa at 50 tokens on a CPU
    return model


def build_judge(folder: Path) -> None:
    """Writes pico-clip as an ordinary CLIP checkpoint into `folder`."""
    model = CLIPModel(clip_config(_vision_config(), *_WORDS))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}, strict=False)
    model.save_pretrained(folder)
    clip_tokenizer(*_WORDS).save_pretrained(folder)
    CLIPImageProcessor(image_mean=CLIP_MEAN, image_std=CLIP_STD).save_pretrained(folder)


def train_judge(recipe: JudgeRecipe, out: Path) -> None:
    """Trains it on pictures of known glyphs and writes its weights to `out`, in bf16."""
    torch.manual_seed(_SEED)
    model, truths = _make_model(), _Truths()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.05
    )
    batches = picture_batches(batch=recipe.batch, seed=_SEED, several_share=recipe.several_share)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    progress = tqdm(range(recipe.steps), desc=JUDGE, mininterval=5)
    for step in progress:
        shown = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pixels = (shown.pixels.float() / 255 - mean) / std
            pictures = F.normalize(model.get_image_features(pixels).pooler_output.float(), dim=-1)
            texts = F.normalize(model.get_text_features(**truths.captions).pooler_output.float(), dim=-1)
        scores = model.logit_scale.exp().clamp(max=100.0) * pictures @ texts.T
        losses = truths.losses(scores, shown.glyphs)
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
    _save(model, out)


class _Truths:
    """What is true of a picture, by vocabulary: names, kinds and counts, one caption for each."""

    def __init__(self) -> None:
        self._known = load_split()["known"]
        names = [glyph.name for glyph in self._known]
        self._sizes = {"names": len(names), "kinds": len(CATEGORIES), "counts": len(COUNTS)}
        self.captions = caption_ids([*names, *CATEGORIES, *COUNTS], *_WORDS)

    def losses(self, scores: Tensor, glyphs: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Cross-entropy of scores (B, captions) within each vocabulary, over the pictures it says much of."""
        parts = scores.split(list(self._sizes.values()), dim=1)
        found = {}
        for (name, size), part in zip(self._sizes.items(), parts, strict=True):
            hot = torch.zeros(len(glyphs), size)
            for row, shown in enumerate(glyphs):
                hot[row, self._places(name, shown)] = 1.0
            told = hot.any(1)
            share = hot[told] / hot[told].sum(1, keepdim=True)
            found[name] = -(share * F.log_softmax(part[told], dim=-1)).sum(1).mean()
        return found

    def _places(self, vocabulary: str, shown: Sequence[int]) -> list[int]:
        if vocabulary == "names":
            return list(shown)
        if vocabulary == "counts":
            return [len(shown) - 1]
        groups = {group_of(self._known[index]) for index in shown}
        return [place for place, group in enumerate(CATEGORIES) if group in groups]


def _save(model: CLIPModel, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}, out)
    out.chmod(0o644)  # an image is built from this folder and runs as another user
