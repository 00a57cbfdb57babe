"""The scores of candidate answers on transformers, to hold a server's against."""

from collections.abc import Sequence

from prompts.bundle import Bundle
from prompts.manifest import Usage
from training.backbone import NO_PROMPTS, Backbone, DeepPrompts
from training.data import Example
from training.decoding import score_choices
from training.evaluate import picture_features

__all__ = ["local_scores", "same_best", "worst_gap"]

Scores = Sequence[Sequence[float]]


def local_scores(backbone: Backbone, bundle: Bundle | None, examples: Sequence[Example]) -> Scores:
    """One score per choice of each example: its mean log-likelihood per token."""
    usage = bundle.manifest.usage if bundle else Usage()
    deep = DeepPrompts.of_bundle(bundle, backbone.device) if bundle else NO_PROMPTS
    features = picture_features(backbone, examples, bundle, deep)
    questions = [backbone.encode_example(one, usage).prompt for one in examples]
    ids = [[backbone.encode_answer(one, choice, usage) for choice in one.choices or ()] for one in examples]
    scores = score_choices(backbone, questions, ids, features=features, deep=deep)
    return [row.tolist() for row in scores]


def worst_gap(ours: Scores, theirs: Scores) -> float:
    """The largest difference between two scores of the same candidate."""
    pairs = zip(ours, theirs, strict=True)
    return max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


def same_best(ours: Scores, theirs: Scores, tolerance: float) -> list[bool]:
    """Whether both find the same best candidate, of each example whose two best are `tolerance` apart."""
    same = []
    for left, right in zip(ours, theirs, strict=True):
        second, first = sorted(left)[-2:]
        if first - second > tolerance:
            same.append(left.index(first) == right.index(max(right)))
    return same
