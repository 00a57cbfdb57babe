"""Recipe, stage 1: the tower, the tiny CLIP around it, a projector that speaks the language model's words.

Three losses on the same pictures, none of which needs a pass through the language model:

- naming: a linear head on the mean patch token (layer -2), thrown away afterwards: the tower learns fast;
- contrastive: the picture's CLIP embedding against the captions of *all* known names;
- lexical: projected patch tokens (layer -2) against the language model's own word embeddings. A name's word
  is found where any patch says it, so the frozen model later reads names almost as if they were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPModel, PreTrainedTokenizerBase

from training.pico.anatomy import (
    CLIP_PROMPT,
    VISION_FEATURE_LAYER,
    clip_config,
    clip_tokenizer,
    language_model,
    language_tokenizer,
)
from training.pico.glyphs import load_split
from training.pico.pictures import normalise, picture_batches

__all__ = ["Projector", "TowerRecipe", "load_tower", "train_tower"]

_LEXICAL_SCALE = 16.0


@dataclass(frozen=True)
class TowerRecipe:
    """Stage 1's settings.

    The weights in this repository had 1,000 steps of an earlier version without the naming head, then 2,200
    like these.
    """

    steps: int = 3200
    batch: int = 48
    lr: float = 1e-3
    weight_decay: float = 0.05
    several_share: float = 0.2
    contrastive_weight: float = 0.5
    lexical_weight: float = 0.5
    seed: int = 1


class Projector(nn.Module):
    """LLaVA's two-layer projector, by its names in a checkpoint: (…, 192) to (…, 576)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))


@dataclass(frozen=True)
class Lexicon:
    """The words of the known names: their embeddings (W, d) unit-length, and which a glyph has (N, W)."""

    directions: Tensor
    norm: float
    words_of_glyph: Tensor


def build_lexicon(embeddings: Tensor, tokenizer: PreTrainedTokenizerBase) -> Lexicon:
    """Reads each known name as the language model would after a space."""
    names = [glyph.name for glyph in load_split()["known"]]
    ids = [tokenizer(" " + name, add_special_tokens=False).input_ids for name in names]
    used = sorted({token for row in ids for token in row})
    column = {token: index for index, token in enumerate(used)}
    words = torch.zeros(len(names), len(used))
    for row, tokens in enumerate(ids):
        for token in tokens:
            words[row, column[token]] = 1.0
    chosen = embeddings[used].float()
    return Lexicon(F.normalize(chosen, dim=-1), chosen.norm(dim=-1).mean().item(), words)


def lexical_loss(tokens: Tensor, targets: Tensor, lexicon: Lexicon) -> Tensor:
    """Cross-entropy of the words that patches (B, P, d) say against the words that are there (B, W)."""
    said = F.normalize(tokens, dim=-1) @ lexicon.directions.T * _LEXICAL_SCALE
    log_words = F.log_softmax(torch.logsumexp(said, dim=1), dim=-1)
    cross_entropy = -(targets / targets.sum(1, keepdim=True) * log_words).sum(1).mean()
    length = (tokens.norm(dim=-1) / lexicon.norm - 1).square().mean()
    return cross_entropy + 0.1 * length


def contrastive_loss(clip: CLIPModel, pooled: Tensor, captions: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy of pictures (B, width) against the captions of all N names; targets (B, N) sum to 1."""
    pictures = F.normalize(clip.visual_projection(pooled), dim=-1)
    texts = F.normalize(clip.text_projection(clip.text_model(**captions).pooler_output), dim=-1)
    scale = clip.logit_scale.exp().clamp(max=100.0)
    return -(targets * F.log_softmax(scale * pictures @ texts.T, dim=-1)).sum(1).mean()


def multi_hot(glyphs: Sequence[Sequence[int]], count: int) -> Tensor:
    """(B, N) with 1 where picture b shows glyph n."""
    hot = torch.zeros(len(glyphs), count)
    for row, chosen in enumerate(glyphs):
        hot[row, list(chosen)] = 1.0
    return hot


def train_tower(recipe: TowerRecipe, state_file: Path) -> None:
    """Trains CLIP and projector together and writes their state to `state_file`, which `load_tower` reads."""
    torch.manual_seed(recipe.seed)
    known = load_split()["known"]
    clip, projector, head = (
        CLIPModel(clip_config()),
        Projector(192, 576),
        nn.Sequential(nn.LayerNorm(192), nn.Linear(192, len(known))),
    )
    clip.set_attn_implementation("eager")  # faster than sdpa at 65 tokens on a CPU
    lexicon = build_lexicon(language_model().get_input_embeddings().weight.detach(), language_tokenizer())
    captions = dict(
        clip_tokenizer()([CLIP_PROMPT.format(name=g.name) for g in known], padding=True, return_tensors="pt")
    )
    captions.pop("token_type_ids", None)
    parameters = [*clip.parameters(), *projector.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.05
    )
    batches = picture_batches(batch=recipe.batch, seed=recipe.seed, several_share=recipe.several_share)
    progress = tqdm(range(recipe.steps), desc="tower", mininterval=5)
    for step in progress:
        shown = next(batches)
        hot = multi_hot(shown.glyphs, len(known))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = clip.vision_model(normalise(shown.pixels), output_hidden_states=True)
            patches = seen.hidden_states[VISION_FEATURE_LAYER][:, 1:]
            tokens = projector(patches)
            contrast = contrastive_loss(clip, seen.pooler_output, captions, hot / hot.sum(1, keepdim=True))
        lexical = lexical_loss(tokens.float(), (hot @ lexicon.words_of_glyph).clamp(max=1), lexicon)
        naming = (
            -(hot / hot.sum(1, keepdim=True) * F.log_softmax(head(patches.mean(1).float()), dim=-1))
            .sum(1)
            .mean()
        )
        loss = naming + recipe.contrastive_weight * contrast + recipe.lexical_weight * lexical
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix(
                naming=f"{naming.item():.3f}",
                contrast=f"{contrast.item():.3f}",
                lexical=f"{lexical.item():.3f}",
            )
        if step % 200 == 199 or step == recipe.steps - 1:
            torch.save(
                {"clip": clip.state_dict(), "projector": projector.state_dict(), "step": step + 1}, state_file
            )


def load_tower(state_file: Path) -> tuple[CLIPModel, Projector]:
    """Reads what `train_tower` wrote."""
    state = torch.load(state_file, weights_only=True)
    clip, projector = CLIPModel(clip_config()), Projector(192, 576)
    clip.load_state_dict(state["clip"])
    projector.load_state_dict(state["projector"])
    return clip.eval(), projector.eval()
