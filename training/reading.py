"""Reads a run's examples, from a source or a stream; a broken one's seat goes to the next good one.

Seat k of a run (k = forward pass · batch + place in the batch) has the example at position k of the run's
order. Where that is broken, it has the one at the next position that is not; that one keeps its own seat
as well. So a seat depends on the config and on what is broken in the data, not on what was read before: a
resumed run sees what the unbroken one would have seen.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from prompts.errors import ConfigError, PictureError, RecordError
from prompts.faults import fault
from training.batches import Order, ShuffledOrder
from training.data import Example, ExampleSource, ExampleStream
from training.data.broken import count_records
from training.data.example import broken_records
from training.data.mix import MixSource
from training.ledger import Broken, Ledger

__all__ = ["Reader", "Seat", "open_reader"]


class Seat(NamedTuple):
    """An example in a batch. `place`: in the source; of a stream, its number in the order read."""

    place: int
    example: Example


class _Positions(Protocol):
    """The examples of a run, by their position in its order."""

    def begin(self, position: int) -> None:
        """What is before `position` is not asked for until a lower one begins."""

    def place(self, position: int) -> int:
        """What tells the example from others."""

    def example(self, position: int) -> Example:
        """The example; raises PictureError or RecordError where it is broken."""


class Reader:
    """The batches of a run."""

    def __init__(
        self,
        positions: _Positions,
        *,
        batch: int,
        ledger: Ledger,
        parts: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._positions, self._batch, self.ledger, self._parts = positions, batch, ledger, parts

    def seats(self, number: int) -> list[Seat]:
        """What forward pass `number` sees.

        Raises:
            ConfigError: more is broken than the ledger allows.
        """
        first = number * self._batch
        self._positions.begin(first)
        return [self._seat(position, number) for position in range(first, first + self._batch)]

    def figures(self, passes: int) -> dict[str, float]:
        """For the log after so many passes: `broken`, the examples skipped so far, if there are any."""
        found = len(self.ledger.found(passes))
        return {"broken": found} if found else {}

    def report(self, passes: int) -> dict[str, JsonValue]:
        """For the bundle: examples of each part of a mix, and what was broken; {} where neither is."""
        parts: dict[str, JsonValue] = {"parts": dict(self._parts)} if self._parts else {}
        return {**parts, **self.ledger.summary(passes)}

    def _seat(self, position: int, number: int) -> Seat:
        while True:  # the ledger ends it: it allows less than all to be broken
            place = self._positions.place(position)
            if not self.ledger.knows(place):
                try:
                    return Seat(place, self._positions.example(position))
                except (PictureError, RecordError) as error:
                    self.ledger.note(Broken(place, str(error), number), seen=position + 1)
            position += 1


def open_reader(
    data: ExampleSource | ExampleStream,
    *,
    batch: int,
    seed: int,
    max_broken_share: float,
    order: Order | None = None,
) -> Reader:
    """The reader of a run.

    Args:
        max_broken_share: of records and pictures together, less than 1.
        order: of a source's examples (default: each epoch another permutation).
    """
    if isinstance(data, ExampleStream):
        positions: _Positions = _OfStream(data, seed)
        return Reader(positions, batch=batch, ledger=Ledger(max_share=max_broken_share, size=None))
    ledger = Ledger(
        max_share=max_broken_share,
        size=len(data),
        records=broken_records(data),
        all_records=count_records(data),
    )
    positions = _OfSource(data, order or ShuffledOrder(len(data), seed))
    parts = data.counts if isinstance(data, MixSource) else {}
    return Reader(positions, batch=batch, ledger=ledger, parts=parts)


class _OfSource:
    def __init__(self, source: ExampleSource, order: Order) -> None:
        self._source, self._order = source, order

    def begin(self, position: int) -> None:
        pass

    def place(self, position: int) -> int:
        return self._order.place_at(position)

    def example(self, position: int) -> Example:
        return self._source[self.place(position)]


class _OfStream:
    """Keeps the rows from the current batch on; a lower position begins the stream anew and skips ahead."""

    def __init__(self, stream: ExampleStream, seed: int) -> None:
        self._stream, self._seed = stream, seed
        self._rows = self._endless()
        self._kept: deque[Callable[[], Example]] = deque()
        self._first = 0

    def begin(self, position: int) -> None:
        if position < self._first:
            self._rows, self._first = self._endless(), 0
            self._kept.clear()
        ahead = min(position - self._first, len(self._kept))
        for _ in range(ahead):
            self._kept.popleft()
        skipped = position - self._first - ahead
        next(islice(self._rows, skipped, skipped), None)
        self._first = position

    def place(self, position: int) -> int:
        return position

    def example(self, position: int) -> Example:
        while len(self._kept) <= position - self._first:
            self._kept.append(next(self._rows))
        return self._kept[position - self._first]()

    def _endless(self) -> Iterator[Callable[[], Example]]:
        for epoch in count():
            rows = self._stream.rows(seed=self._seed, epoch=epoch)
            first = next(rows, None)
            if first is None:
                cure = "name other files"
                raise ConfigError("data", [fault("data", expected="rows", came="an empty stream", cure=cure)])
            yield first
            yield from rows
