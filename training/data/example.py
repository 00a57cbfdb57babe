"""One example, and what a source or a stream of them is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

__all__ = [
    "Example",
    "ExampleSource",
    "ExampleStream",
    "Outline",
    "broken_records",
    "count_without_picture",
    "iterate_source",
    "known_answers",
    "outline_of",
    "tells_outlines",
]


@dataclass(frozen=True)
class Example:
    """One question about one picture; `answer` is one of the `choices` it may be ranked among."""

    picture: Image.Image | None
    question: str
    answer: str
    choices: tuple[str, ...] | None = None


class Outline(NamedTuple):
    """An example without its picture: what it takes to know how long it is."""

    question: str
    answer: str
    has_picture: bool


class ExampleSource(Protocol):
    """A sequence of examples; the same index always gives the same example.

    A source that knows them without opening a picture may offer more, each asked for with the function
    here that has it in its name: `answers` (frozenset[str]), every answer there is; `without_picture` (int),
    how many examples are text alone; `broken_records` (tuple[str, ...]), the faults of the records that were
    left out; and `outline(index)`, an example's `Outline`.
    """

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int, /) -> Example:
        """Example `index`, 0 <= index < len(self)."""


@runtime_checkable
class ExampleStream(Protocol):
    """Examples that can only be read one after the other, and whose number nobody knows.

    A run that is resumed skips ahead: rows are cheap until they are opened.
    """

    def rows(self, *, seed: int, epoch: int) -> Iterator[Callable[[], Example]]:
        """Each row of an epoch once, in an order that seed and epoch decide alone.

        A row is a function that opens it; it raises RecordError or PictureError where the row is broken.
        """


def iterate_source(source: ExampleSource) -> Iterator[Example]:
    """Each example once, in order."""
    return (source[index] for index in range(len(source)))


def known_answers(source: ExampleSource) -> frozenset[str] | None:
    """Every answer of the source; None where it cannot tell without drawing its examples."""
    answers: frozenset[str] | None = getattr(source, "answers", None)
    return answers


def count_without_picture(source: ExampleSource) -> int:
    """How many examples are text alone; 0 where the source does not say."""
    count: int = getattr(source, "without_picture", 0)
    return count


def broken_records(source: ExampleSource) -> tuple[str, ...]:
    """The faults of the records that were left out when the source was opened."""
    faults: tuple[str, ...] = getattr(source, "broken_records", ())
    return faults


def tells_outlines(source: ExampleSource) -> bool:
    """Whether `outline_of` has an answer for every example."""
    return bool(getattr(source, "tells_outlines", hasattr(source, "outline")))


def outline_of(source: ExampleSource, index: int) -> Outline | None:
    """Example `index` without its picture; None where the source cannot tell without drawing it."""
    outline: Callable[[int], Outline | None] | None = getattr(source, "outline", None)
    return None if outline is None else outline(index)
