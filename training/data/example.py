"""One example, and what a source of them is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

__all__ = ["Example", "ExampleSource", "count_without_picture", "iterate_source", "known_answers"]


@dataclass(frozen=True)
class Example:
    """One question about one picture; `answer` is one of the `choices` it may be ranked among."""

    picture: Image.Image | None
    question: str
    answer: str
    choices: tuple[str, ...] | None = None


class ExampleSource(Protocol):
    """A sequence of examples; the same index always gives the same example.

    A source that knows them without opening a picture may offer two attributes more, which are asked for
    with `known_answers` and `count_without_picture`: `answers` (frozenset[str]), every answer there is, and
    `without_picture` (int), how many examples are text alone.
    """

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int, /) -> Example:
        """Example `index`, 0 <= index < len(self)."""


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
