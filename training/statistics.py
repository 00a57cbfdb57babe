"""Accuracies and gains with the interval that says how far to trust them, and what POPE says of yes and no.

Every interval is a percentile bootstrap at 95 % over examples (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13): `RESAMPLES` resamples from a fixed seed, so that equal answers give equal
intervals.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "RESAMPLES",
    "Gain",
    "Score",
    "YesNo",
    "mean_gain",
    "mean_score",
    "paired_gain",
    "says_yes",
    "score",
    "yes_no",
]

RESAMPLES = 10_000
_SEED = 0
_TAILS = (0.025, 0.975)
_Z95 = 1.959963984540054
_NO_WORDS = {"no", "not"}

Gains = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """`accuracy` of `n` answers and its bootstrap 95 % interval, all as shares of one."""

    n: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.0f} % [{100 * self.low:.0f}–{100 * self.high:.0f}]"


@dataclass(frozen=True)
class Gain:
    """Mean difference over `n` examples and its bootstrap 95 % interval, as shares of one (−1 to 1)."""

    n: int
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+z.1f} points [{100 * self.low:+.1f} to {100 * self.high:+.1f}]"


@dataclass(frozen=True)
class YesNo:
    """What POPE reports of `n` yes/no answers, as shares of one; "yes" is the positive class.

    `yes_ratio` is the share of answers that say yes. `unclear` is how many said neither. A ratio whose
    denominator is zero (precision without a yes, recall without a yes wanted, F1 without either) is 0.
    """

    n: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    unclear: int


def score(right: Sequence[bool]) -> Score:
    """Accuracy and bootstrap interval of a list of right and wrong answers.

    A list all right or all wrong has nothing to resample, and the bootstrap would call it certain. There the
    far bound is Wilson's: n / (n + z²) below all right, z² / (n + z²) above all wrong.

    Raises:
        ValueError: no answers.
    """
    answers = np.asarray(right, dtype=np.float64)
    low, high = _interval([answers[None]], least=0.0)
    return Score(answers.size, float(answers.mean()), low, high)


def paired_gain(with_: Sequence[bool], without: Sequence[bool]) -> Gain:
    """How much more often an answer is right with a prompt than without, over the same examples in order.

    Examples are resampled as pairs, so that what both sides have in common drops out. Where every pair
    differs alike (none changed, say) each bound allows for the share z² / (n + z²) of other pairs that n
    examples cannot rule out (Wilson's).

    Raises:
        ValueError: no examples, or not as many on both sides.
    """
    if len(with_) != len(without):
        raise ValueError(f"expected as many answers with as without, came {len(with_)} and {len(without)}")
    gains = np.asarray(with_, dtype=np.float64) - np.asarray(without, dtype=np.float64)
    low, high = _interval([gains[None]], least=-1.0)
    return Gain(gains.size, float(gains.mean()), low, high)


def mean_gain(groups: Sequence[npt.ArrayLike]) -> Gain:
    """The mean gain over groups, each group counted alike, with a hierarchical bootstrap interval.

    Args:
        groups: what is independent of each other, one task and source model each, say. A group is an array
            of gains (−1, 0, 1: right with, minus right without) by seed and example, (S, n), or by seed,
            model and example, (S, M, n). All seeds and models of a group see the same n examples in order.

    The groups stay as they are: the interval speaks of these tasks and models, not of others. Within each,
    seeds are resampled, then examples; an example drawn is drawn for all seeds and models at once, since it
    is the same picture. Models are averaged first: one trained prompt measured on five of them is one
    training, not five.

    What the interval cannot do: of S seeds it sees the share (S − 1)/S of the variance between seeds, and
    with one it knows of examples alone. Where trainings hardly differ, it is wider than need be: the noise of
    examples is in both levels (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007).
    Simulated 600 times with two groups of 100 examples and a true gain of 0.3, it held the truth in 99.8 %
    with three equal seeds, in 96.5 % where seeds differ with a standard deviation of 0.05, in 91 % at 0.1;
    with one seed in 95.5, 84 and 60 %. Groups that share pictures or trainings are not independent, and the
    interval is too narrow for them: put models beside each other in one group.
    Where each group's gains are all equal, the bounds are the mean of `paired_gain`'s bounds.

    Returns:
        The gain; its `n` is the sum of S·M·n over the groups.

    Raises:
        ValueError: no groups, or one that is empty or has another shape.
    """
    n, mean, low, high = _mean_of(groups, least=-1.0)
    return Gain(n, mean, low, high)


def mean_score(groups: Sequence[npt.ArrayLike]) -> Score:
    """The mean accuracy over groups of right (1) and wrong (0) answers, with the interval of `mean_gain`.

    Args:
        groups: as `mean_gain`'s; the models of a group may be tasks as well, with as many pictures each: they
            share their trainings, and example i of each is drawn together with the others' examples i.

    Raises:
        ValueError: no groups, or one that is empty or has another shape.
    """
    return Score(*_mean_of(groups, least=0.0))


def yes_no(answers: Sequence[str], said: Sequence[str]) -> YesNo:
    """POPE's measures (Li et al., EMNLP 2023) of free answers to yes/no questions.

    Args:
        answers: what is wanted, "yes" or "no".
        said: the answers in the same order. The first of the words yes, no and not decides. An answer
            without any of them counts as no: it does not claim that the thing is there. (The paper's script
            counts it as yes; look at `unclear` before comparing.)

    Raises:
        ValueError: no answers, not as many on both sides, or a wanted answer that is neither yes nor no.
    """
    if not answers or len(answers) != len(said):
        raise ValueError(f"expected as many answers as wanted, came {len(said)} for {len(answers)}")
    foreign = sorted(set(answers) - {"yes", "no"})
    if foreign:
        raise ValueError(f"expected yes or no wanted, came {foreign[0]!r}")
    read = [_yes_or_no(text) for text in said]
    wanted, claimed = (np.array([one == "yes" for one in side]) for side in (answers, read))
    hits, claims, wants = (int(side.sum()) for side in (wanted & claimed, claimed, wanted))
    return YesNo(
        n=len(answers),
        accuracy=float((wanted == claimed).mean()),
        precision=_ratio(hits, claims),
        recall=_ratio(hits, wants),
        f1=_ratio(2 * hits, claims + wants),
        yes_ratio=float(claimed.mean()),
        unclear=read.count(None),
    )


def says_yes(text: str) -> bool:
    """Whether an answer says yes, as `yes_no` reads it."""
    return _yes_or_no(text) == "yes"


def _yes_or_no(text: str) -> str | None:
    for word in re.findall(r"[a-z]+", text.lower()):
        if word == "yes":
            return "yes"
        if word in _NO_WORDS:
            return "no"
    return None


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean_of(groups: Sequence[npt.ArrayLike], *, least: float) -> tuple[int, float, float, float]:
    """Number of values, their mean over groups, and its interval."""
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    for number, array in enumerate(arrays):
        if array.ndim not in (2, 3):
            raise ValueError(f"group {number}: expected gains (S, n) or (S, M, n), came shape {array.shape}")
    by_seed = [array if array.ndim == 2 else array.mean(axis=1) for array in arrays]
    low, high = _interval(by_seed, least=least)
    mean = float(np.mean([group.mean() for group in by_seed]))
    return sum(array.size for array in arrays), mean, low, high


def _interval(groups: Sequence[Gains], *, least: float) -> tuple[float, float]:
    """Bounds of the mean over groups, each (S, n); values lie between `least` and 1."""
    if not groups or not all(group.size for group in groups):
        raise ValueError("expected examples in every group, came none")
    if all((group == group[0, 0]).all() for group in groups):
        bounds = [_bounds_of_one_value(group, least) for group in groups]
        low, high = np.mean(bounds, axis=0)
        return float(low), float(high)
    rng = np.random.default_rng(_SEED)
    means = np.mean([_resampled_means(rng, group) for group in groups], axis=0)
    low, high = np.quantile(means, _TAILS)
    return float(low), float(high)


def _bounds_of_one_value(group: Gains, least: float) -> tuple[float, float]:
    """Bounds of the mean of (S, n) equal values: n examples leave room for a share of others, unseen."""
    only, unseen = float(group[0, 0]), _Z95**2 / (group.shape[1] + _Z95**2)
    return only - unseen * (only - least), only + unseen * (1 - only)


def _resampled_means(rng: np.random.Generator, gains: Gains) -> Gains:
    """Means of `RESAMPLES` resamples of (S, n) gains: seeds with replacement, then examples for all alike.

    Examples with equal gains in every seed are drawn as one number (a multinomial draw), not one by one.
    """
    seeds, n = gains.shape
    kinds, times = np.unique(gains, axis=1, return_counts=True)
    examples = rng.multinomial(n, times / n, size=RESAMPLES) / n
    trainings = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    return np.einsum("rk,sk,rs->r", examples, kinds, trainings, optimize=True)
