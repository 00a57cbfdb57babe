"""Recipe, stage 1: a member's tower, and a projector that speaks the language model's words.

Three losses on the same pictures, none of which needs a pass through the language model:

- naming: a linear head on the mean patch token, thrown away afterwards: the tower learns fast;
- contrastive, where the tower is half of a CLIP (pico-llava): the picture's embedding against the captions of
  *all* known names;
- lexical: projected patch tokens against the language model's own word embeddings. A name's word is found
  where any row says it, so the frozen model later reads names almost as if they were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from training.pico.glyphs import load_split
from training.pico.language_model import language_model
from training.pico.members import Eyes, Member
from training.pico.pictures import picture_batches

__all__ = ["TowerRecipe", "load_eyes", "train_tower"]

_LEXICAL_SCALE = 16.0


@dataclass(frozen=True)
class TowerRecipe:
    """Stage 1's settings.

    pico-llava had 1,000 steps of an earlier version without the naming head, then 2,200 like these.
    """

    steps: int = 3200
    batch: int = 48
    lr: float = 1e-3
    weight_decay: float = 0.05
    several_share: float = 0.2
    contrastive_weight: float = 0.5
    lexical_weight: float = 0.5


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


def multi_hot(glyphs: Sequence[Sequence[int]], count: int) -> Tensor:
    """(B, N) with 1 where picture b shows glyph n."""
    hot = torch.zeros(len(glyphs), count)
    for row, chosen in enumerate(glyphs):
        hot[row, list(chosen)] = 1.0
    return hot


def train_tower(member: Member, recipe: TowerRecipe, state_file: Path) -> None:
    """Trains tower and projector together and writes their state to `state_file`, which `load_eyes` reads."""
    torch.manual_seed(member.seed)
    known = load_split()["known"]
    eyes = member.make_eyes()
    head = nn.Sequential(nn.LayerNorm(eyes.width), nn.Linear(eyes.width, len(known)))
    lexicon = build_lexicon(language_model().get_input_embeddings().weight.detach(), member.tokenizer)
    parameters = [*eyes.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.05
    )
    batches = picture_batches(batch=recipe.batch, seed=member.seed, several_share=recipe.several_share)
    progress = tqdm(range(recipe.steps), desc=f"{member.name}, tower", mininterval=5)
    for step in progress:
        shown = next(batches)
        losses = _losses(eyes, head, shown.pixels, multi_hot(shown.glyphs, len(known)), lexicon)
        loss = (
            losses["naming"]
            + recipe.contrastive_weight * losses.get("contrast", torch.zeros(()))
            + recipe.lexical_weight * losses["lexical"]
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            progress.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
        if step % 200 == 199 or step == recipe.steps - 1:
            torch.save({"eyes": eyes.state_dict(), "step": step + 1}, state_file)


def _losses(eyes: Eyes, head: nn.Module, pixels: Tensor, hot: Tensor, lexicon: Lexicon) -> dict[str, Tensor]:
    """The stage's losses on pictures (B, 3, 224, 224) that show the names in `hot` (B, N)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = eyes.see(eyes.normalise(pixels))
        rows = eyes.projector(seen.patches)
        contrast = eyes.contrast(seen, hot)
    share = hot / hot.sum(1, keepdim=True)
    losses = {
        "naming": -(share * F.log_softmax(head(seen.patches.mean(1).float()), dim=-1)).sum(1).mean(),
        "lexical": lexical_loss(rows.float(), (hot @ lexicon.words_of_glyph).clamp(max=1), lexicon),
    }
    return losses if contrast is None else {**losses, "contrast": contrast}


def load_eyes(member: Member, state_file: Path) -> Eyes:
    """Reads what `train_tower` wrote."""
    eyes = member.make_eyes()
    eyes.load_state_dict(torch.load(state_file, weights_only=True)["eyes"])
    return eyes.eval()
