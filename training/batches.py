"""From a source of examples to batches: the order of a run, and a thread that prepares ahead.

The batch of a step depends on the seed and the step's number alone, so a resumed run sees what the unbroken
one would have seen.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

from training.data import Example, ExampleSource

__all__ = ["examples_of_pass", "places_of_pass", "prepared"]

_AHEAD = 3
Batch = TypeVar("Batch")


def places_of_pass(size: int, *, number: int, batch: int, seed: int) -> list[int]:
    """Which of `size` examples forward pass `number` (from 0) sees: each epoch is a new permutation."""
    places = range(number * batch, (number + 1) * batch)
    return [_order(size, seed, place // size)[place % size] for place in places]


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
def _order(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(size, generator=generator).tolist())
