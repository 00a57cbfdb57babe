"""Answers from a frozen model: the score of each candidate, or greedy text.

The question (its picture and the learned prompts included) goes through the model once and stays in a
key-value cache; candidates and generated tokens continue from there. Learned text prompts act in that first
pass only, as at serving: later tokens find them in the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from training.backbone import NO_PROMPTS, Backbone, DeepPrompts, Features
from training.chat import Encoded
from training.choices import ChoiceMask

__all__ = ["first_log_probs", "generate", "score_choices"]

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class _Prefix:
    """B questions after their first pass.

    Attributes:
        cache: keys and values of P_t + T rows, padding on the right included.
        seen: (B, P_t + T) int64, 1 on real rows.
        positions: (B,) rotary position of the next token.
        log_probs: (B, vocabulary) of the next token, float32.
        deep: what it was made with.
    """

    cache: DynamicCache
    seen: Tensor
    positions: Tensor
    log_probs: Tensor
    deep: DeepPrompts


def score_choices(
    backbone: Backbone,
    questions: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    *,
    features: Features | None,
    deep: DeepPrompts = NO_PROMPTS,
) -> list[Tensor]:
    """Mean log-likelihood per token of each candidate answer; gradients flow.

    Args:
        questions: B prompts as token ids, a picture being one image token.
        choices: token ids of each question's candidates.
        features: of the pictures, in the order of the questions that have one.

    Returns:
        B tensors, one score per candidate.
    """
    prefix = _first_pass(backbone, questions, features, deep)
    rows = [(number, candidate) for number, group in enumerate(choices) for candidate in group]
    scores = [
        _continue(backbone, prefix, rows[start : start + ROWS_AT_ONCE])
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    return list(torch.cat(scores).split([len(group) for group in choices]))


@torch.inference_mode()
def first_log_probs(
    backbone: Backbone,
    questions: Sequence[Sequence[int]],
    *,
    features: Features | None,
    deep: DeepPrompts = NO_PROMPTS,
) -> Tensor:
    """Log-probabilities of the token that follows each question: (B, vocabulary) float32."""
    return _first_pass(backbone, questions, features, deep).log_probs


@torch.inference_mode()
def generate(
    backbone: Backbone,
    questions: Sequence[Sequence[int]],
    *,
    features: Features | None,
    deep: DeepPrompts = NO_PROMPTS,
    max_new_tokens: int = 32,
    masks: Sequence[ChoiceMask] | None = None,
) -> list[str]:
    """The most likely continuation of each question, up to its end token.

    `masks`: one for each question; its answer is held to the mask's choices, as by structured output.
    """
    prefix = _first_pass(backbone, questions, features, deep)
    written = [b""] * len(questions)
    token, seen, position = _next(prefix.log_probs, masks, written), prefix.seen, prefix.positions
    stop = torch.tensor(backbone.stop_ids, device=backbone.device)
    answers = [token]
    done = torch.isin(token, stop)
    while not done.all() and len(answers) < max_new_tokens:
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
        hidden = backbone.continue_from(prefix.cache, token[:, None], seen=seen, positions=position[:, None])
        token, position = _next(backbone.read_out(hidden[:, -1], deep), masks, written), position + 1
        answers.append(token)
        done |= torch.isin(token, stop)
    return [backbone.chat.decode(_until(row, backbone.stop_ids)) for row in torch.stack(answers, 1).tolist()]


def _next(logits: Tensor, masks: Sequence[ChoiceMask] | None, written: list[bytes]) -> Tensor:
    """The most likely next token of each row (B, vocabulary) that its mask lets through: (B,).

    `written` grows by what the tokens write. What comes after an end token is cut by the caller.
    """
    if masks is None:
        return logits.argmax(-1)
    chosen = []
    for row, mask in enumerate(masks):
        ids = mask.next_ids(written[row])
        chosen.append(ids[int(logits[row, ids].argmax())])
        written[row] += mask.text(chosen[-1])
    return torch.tensor(chosen, device=logits.device)


def _first_pass(
    backbone: Backbone,
    questions: Sequence[Sequence[int]],
    features: Features | None,
    deep: DeepPrompts,
) -> _Prefix:
    batch = backbone.collate([Encoded(tuple(question), ()) for question in questions], features)
    cache = DynamicCache(config=backbone.config.get_text_config(decoder=True))
    last = torch.zeros_like(batch.image)
    last[torch.arange(len(questions), device=last.device), batch.lengths - 1] = True
    logits = backbone.logits(batch, features, last, deep=deep, cache=cache)
    width = batch.ids.shape[1] + deep.text_length
    rows = batch.lengths + deep.text_length
    seen = (torch.arange(width, device=rows.device) < rows[:, None]).long()
    positions = backbone.next_positions(batch, deep)
    return _Prefix(cache, seen, positions, logits.float().log_softmax(-1), deep)


def _continue(backbone: Backbone, prefix: _Prefix, rows: list[tuple[int, Sequence[int]]]) -> Tensor:
    """Scores of R (question number, candidate) rows: (R,)."""
    owner = torch.tensor([number for number, _ in rows], device=backbone.device)
    longest = max(len(candidate) for _, candidate in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (_, candidate) in enumerate(rows):
        tokens[row, : len(candidate)] = torch.tensor(candidate)
        real[row, : len(candidate)] = True
    tokens, real = tokens.to(backbone.device), real.to(backbone.device)
    steps = [prefix.log_probs[owner].gather(1, tokens[:, :1])]
    if longest > 1:
        seen = torch.cat([prefix.seen[owner], torch.ones_like(tokens[:, 1:])], dim=1)
        positions = prefix.positions[owner, None] + torch.arange(longest - 1, device=backbone.device)
        hidden = backbone.continue_from(
            _select(prefix.cache, owner), tokens[:, :-1], seen=seen, positions=positions
        )
        log_probs = backbone.read_out(hidden, prefix.deep).float().log_softmax(-1)
        steps.append(log_probs.gather(2, tokens[:, 1:, None])[..., 0])
    return (torch.cat(steps, dim=1) * real).sum(1) / real.sum(1)


def _select(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A cache of its own that holds the given rows, repeats allowed."""
    chosen = DynamicCache()
    for index, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], index)
    return chosen


def _until(tokens: list[int], stop: list[int]) -> list[int]:
    ends = [index for index, token in enumerate(tokens) if token in stop]
    return tokens[: ends[0]] if ends else tokens
