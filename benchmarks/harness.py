"""Two ways of doing the same, measured side by side: alternating rounds, medians, ratios with their spread.

A machine's speed drifts while it is measured, so the ratio is taken round by round, where both sides ran
within a minute of each other, and the median of these ratios is the figure. Every round's first side is the
last round's second one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Measure", "Ratio", "Rounds", "alternate", "ratio_of"]

Measure = Callable[[int], float]
"""Does one side's work of round n and returns its rate (larger is better); round 0 is warm-up."""


@dataclass(frozen=True)
class Ratio:
    """Median of the rounds' ratios, the lowest and the highest of them, and how many rounds there were."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}–{self.high:.2f}]"


@dataclass(frozen=True)
class Rounds:
    """What each side measured, round by round, warm-up left out."""

    sides: Mapping[str, Sequence[float]]

    def medians(self) -> dict[str, float]:
        """The median of each side."""
        return {name: median(values) for name, values in self.sides.items()}

    def ratio(self, ours: str, theirs: str) -> Ratio:
        """How many times `theirs` the side `ours` measured."""
        return ratio_of(self.sides[ours], self.sides[theirs])


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two sides' values of the same rounds.

    Raises:
        ValueError: no rounds, sides of different length, or a value that is not above 0.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"expected as many values of both sides, came {len(ours)} and {len(theirs)}")
    if min(*ours, *theirs) <= 0:
        raise ValueError("expected values above 0: a side that measured nothing has no ratio")
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios), len(ratios))


def alternate(
    sides: Mapping[str, Measure], rounds: int, *, warmups: int = 1, say: Callable[[str], None] = print
) -> Rounds:
    """Runs every side once a round, in turned order every other round.

    Args:
        sides: name -> its work. A side gets the number of the round, from 1, so that both can do the same
            work of that round; 0 and below are warm-ups, whose values are thrown away.
        rounds: counted rounds, 1 or more.
        say: gets a line of progress a round.

    Raises:
        ValueError: no round to count.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected 1 or more, came {rounds}")
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 - warmups, rounds + 1):
        order = list(sides) if number % 2 else list(sides)[::-1]
        values = {name: sides[name](number) for name in order}
        shown = " · ".join(f"{name} {values[name]:.4g}" for name in sides)
        say(f"round {number} of {rounds}: {shown}" if number > 0 else f"warm-up: {shown}")
        for name, value in values.items() if number > 0 else ():
            measured[name].append(value)
    return Rounds(measured)
