"""Accuracy with the interval that says how far to trust it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Score", "score"]

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """`accuracy` of `n` answers and its Wilson 95 % interval, all as shares of one."""

    n: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.0f} % [{100 * self.low:.0f}–{100 * self.high:.0f}]"


def score(right: Sequence[bool]) -> Score:
    """Accuracy and Wilson interval of a list of right and wrong answers (not empty)."""
    n = len(right)
    share = sum(right) / n
    spread = _Z95**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return Score(n, share, max(0.0, middle - half), min(1.0, middle + half))
