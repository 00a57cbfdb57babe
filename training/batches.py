"""The order of a run's examples, and a thread that prepares its batches ahead.

The batch of a step depends on the seed and the step's number alone, so a resumed run sees what the unbroken
one would have seen.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol, TypeVar

import torch

from training.data import Example, ExampleSource

__all__ = ["Order", "ShuffledOrder", "examples_of_pass", "permutation", "places_of_pass", "prepared"]

_AHEAD = 3
Batch = TypeVar("Batch")


class Order(Protocol):
    """Which example stands at each position of a run, epoch after epoch without end."""

    def place_at(self, position: int) -> int:
        """Its place in the source; of `size` positions from a multiple of `size` on each place has one."""


class ShuffledOrder:
    """Each epoch of `size` positions is a new permutation."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed

    def place_at(self, position: int) -> int:
        """See `Order`."""
        epoch, index = divmod(position, self._size)
        return permutation(self._size, self._seed, epoch)[index]


def places_of_pass(size: int, *, number: int, batch: int, seed: int) -> list[int]:
    """Which of `size` examples forward pass `number` (from 0) sees: each epoch is a new permutation."""
    order = ShuffledOrder(size, seed)
    return [order.place_at(position) for position in range(number * batch, (number + 1) * batch)]


def examples_of_pass(source: ExampleSource, *, number: int, batch: int, seed: int) -> list[Example]:
    """The examples of forward pass `number`, see `places_of_pass`."""
    return [source[place] for place in places_of_pass(len(source), number=number, batch=batch, seed=seed)]


def prepared(make: Callable[[int], Batch], passes: Sequence[int]) -> Generator[Batch, None, None]:
    """`make(number)` for each pass in order, a few of them made ahead in a thread.

    What `make` raises is raised here, when its batch is due. Close the generator to stop the thread: batches
    not begun are dropped.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        waiting = deque(pool.submit(make, number) for number in passes[:_AHEAD])
        for number in passes[_AHEAD:]:
            batch = waiting.popleft().result()
            waiting.append(pool.submit(make, number))
            yield batch
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch: each of `size` places once."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(size, generator=generator).tolist())
