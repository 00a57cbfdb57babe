"""Several sources as one: an instruction mix, each part with the weight it is given."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from training.data.example import (
    Example,
    ExampleSource,
    Outline,
    broken_records,
    count_without_picture,
    known_answers,
    outline_of,
    tells_outlines,
)

__all__ = ["MixSource", "parts_in_turn"]


class MixSource:
    """The examples of several sources, shuffled together once; example i depends on i and the seed alone.

    Of `size` examples a part has its weight's share, rounded so that the sum is right (largest remainders).
    A part whose share is larger than it is comes again, each round in another order; of one whose share is
    smaller the first of its shuffled examples are there. The default size is the smallest at which every
    part is there whole, so that nothing is left out unless `size` says so.

    Args:
        parts: name -> source, in order.
        weights: name -> how much of the mix it is, greater than 0, of any sum; None: by size.
        size: examples of the mix; None: see above.

    Raises:
        ValueError: no parts, an empty one, other names in `weights`, or a weight that is not greater than 0.
    """

    def __init__(
        self,
        parts: Mapping[str, ExampleSource],
        *,
        weights: Mapping[str, float] | None = None,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        self._names, self._parts, self._seed = tuple(parts), tuple(parts.values()), seed
        sizes = [len(part) for part in self._parts]
        weights = dict(zip(self._names, sizes, strict=True)) if weights is None else weights
        if not sizes or min(sizes) < 1 or set(weights) != set(self._names):
            raise ValueError(f"expected weights of parts with examples, came {dict(weights)} for {sizes}")
        if not all(weight > 0 for weight in weights.values()):
            raise ValueError(f"expected weights greater than 0, came {dict(weights)}")
        shares = _shares([weights[name] for name in self._names])
        if size is None:
            size = max(-(-count // share) for count, share in zip(sizes, shares, strict=True))
        self._counts = _counts(shares, size)
        self._part, self._turn = parts_in_turn(self._counts, seed)
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many examples of the mix each part has; they sum to its length."""
        return dict(zip(self._names, self._counts, strict=True))

    @property
    def answers(self) -> frozenset[str] | None:
        """Every answer there is; None where a part cannot tell."""
        found = [known_answers(part) for part in self._parts]
        known = [answers for answers in found if answers is not None]
        return frozenset().union(*known) if len(known) == len(found) else None

    @property
    def without_picture(self) -> int:
        """Examples of the parts (not of the mix) that are text alone."""
        return sum(count_without_picture(part) for part in self._parts)

    @property
    def broken_records(self) -> tuple[str, ...]:
        """What was found broken when the parts were opened, each with its part's name."""
        pairs = zip(self._names, self._parts, strict=True)
        return tuple(f"{name}: {one}" for name, part in pairs for one in broken_records(part))

    @property
    def records(self) -> int:
        """Records of the parts, broken ones included."""
        return sum(len(part) + len(broken_records(part)) for part in self._parts)

    @property
    def tells_outlines(self) -> bool:
        """Whether all parts do."""
        return all(tells_outlines(part) for part in self._parts)

    def outline(self, index: int) -> Outline | None:
        """See `training.data.example.outline_of`."""
        part, inner = self._find(index)
        return outline_of(part, inner)

    def part_of(self, index: int) -> str:
        """The name of the part that example `index` comes from."""
        return self._names[self._part[index]]

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int, /) -> Example:
        part, inner = self._find(index)
        return part[inner]

    def _find(self, index: int) -> tuple[ExampleSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = int(self._part[index])
        part = self._parts[number]
        lap, place = divmod(int(self._turn[index]), len(part))
        return part, int(self._order(number, lap)[place])

    def _order(self, number: int, lap: int) -> NDArray[np.int64]:
        """The order in which a part's examples come in its round `lap`."""
        key = number, lap
        if key not in self._orders:
            rng = np.random.default_rng([self._seed, number, lap])
            self._orders[key] = rng.permutation(len(self._parts[number]))
        return self._orders[key]


def parts_in_turn(counts: Sequence[int], seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each example of a mix its part's number, and how many of that part came before it.

    Both (sum of `counts`,), in an order shuffled by the seed: any stretch is mixed like the whole.
    """
    part = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    np.random.default_rng(seed).shuffle(part)
    turn = np.empty_like(part)
    for number, count in enumerate(counts):
        turn[part == number] = np.arange(count, dtype=np.int32)
    return part, turn


def _shares(weights: Sequence[float]) -> list[Fraction]:
    """Exact, so that weights by size come to whole counts."""
    exact = [Fraction(weight) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def _counts(shares: Sequence[Fraction], size: int) -> list[int]:
    """Whole numbers that sum to `size`, each its share rounded down or up: the largest remainders go up."""
    counts = [int(share * size) for share in shares]
    remainders = sorted(range(len(shares)), key=lambda n: (counts[n] - shares[n] * size, n))
    for number in remainders[: size - sum(counts)]:
        counts[number] += 1
    return counts
