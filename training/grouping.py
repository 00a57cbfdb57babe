"""Batches of examples of similar length, so that little of a batch is padding.

Grouping and not packing: prompt rows stand before the first token of each example and are overwritten at each
layer, so two examples in one row would need prompt rows, positions and an attention mask of their own
for each. Grouping leaves every example, and the loss on its answer, exactly as it is.
"""

from collections.abc import Callable, Sequence

import torch

from training.batches import permutation

__all__ = ["GroupedOrder", "padding_share"]

_WINDOW = 50
"""Batches whose examples are sorted together: few enough that an epoch stays well mixed."""


class GroupedOrder:
    """Each epoch is a permutation (`training.batches.Order`) in which a batch has similar lengths.

    The epoch is permuted first, as in `ShuffledOrder`. Then of each 50 batches in a row the examples are
    sorted by length, cut into batches, and the batches put in random order. That depends on size, seed, batch
    and lengths alone. Batches are those of the run: one that began in the epoch before is filled up as it
    comes, and the last of an epoch may be cut short by the next.

    A batch's loss is the mean over its answers' tokens. So a token of a short answer counts for more among
    short ones than it does in a mixed batch.

    Args:
        length: of the example at a place, in any unit; asked for once an epoch.
    """

    def __init__(self, size: int, seed: int, *, batch: int, length: Callable[[int], int]) -> None:
        self._size, self._seed, self._batch, self._length = size, seed, batch, length
        self._window: tuple[int, list[int]] = (-1, [])

    def place_at(self, position: int) -> int:
        """See `training.batches.Order`."""
        epoch, index = divmod(position, self._size)
        begin = position - index
        first = -(-begin // self._batch) * self._batch
        if position < first:
            return permutation(self._size, self._seed, epoch)[index]
        span = _WINDOW * self._batch
        start = first + (position - first) // span * span
        if self._window[0] != start:
            stop = min(start + span, begin + self._size)
            places = permutation(self._size, self._seed, epoch)[start - begin : stop - begin]
            self._window = start, self._grouped(places, start)
        return self._window[1][position - start]

    def _grouped(self, places: Sequence[int], start: int) -> list[int]:
        """The places in batches of similar length; a last one that is not full stays the last."""
        by_length = sorted(places, key=self._length)
        batches = [by_length[i : i + self._batch] for i in range(0, len(by_length), self._batch)]
        rest = [] if len(batches[-1]) == self._batch else batches.pop()
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + start)
        mixed = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        return [place for batch in [*mixed, rest] for place in batch]


def padding_share(lengths: Sequence[int], *, batch: int) -> float:
    """The share of rows that are padding where examples of these lengths come in batches, in this order."""
    batches = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    rows = sum(max(one) * len(one) for one in batches)
    return 1 - sum(lengths) / rows
