"""From a source of examples to batches: the order of a run, and a thread that prepares ahead.

The batch of a step depends on the seed and the step's number alone, so a resumed run sees what the unbroken one
would have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from training.data import Example, ExampleSource

__all__ = ["examples_of_pass", "prepared"]

_AHEAD = 3
Batch = TypeVar("Batch")


def examples_of_pass(source: ExampleSource, *, number: int, batch: int, seed: int) -> list[Example]:
    """The examples of forward pass `number` (from 0): each epoch is a new permutation of the source."""
    size = len(source)
    places = range(number * batch, (number + 1) * batch)
    epochs = {place // size: _order(size, seed, place // size) for place in (places[0], places[-1])}
    return [source[_at(epochs, place, size, seed)] for place in places]


def prepared(make: Callable[[int], Batch], passes: Sequence[int]) -> Iterator[Batch]:
    """`make(number)` for each pass in order, a few of them made ahead in a thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        waiting = [pool.submit(make, number) for number in passes[:_AHEAD]]
        for number in [*passes[_AHEAD:], *[None] * min(_AHEAD, len(passes))]:
            done = waiting.pop(0).result()
            if number is not None:
                waiting.append(pool.submit(make, number))
            yield done


def _order(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


def _at(epochs: dict[int, list[int]], place: int, size: int, seed: int) -> int:
    epoch, offset = divmod(place, size)
    if epoch not in epochs:  # a source smaller than a batch
        epochs[epoch] = _order(size, seed, epoch)
    return epochs[epoch][offset]
