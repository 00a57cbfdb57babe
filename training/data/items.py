"""The source that all layouts share: a list of items whose pictures are opened when they are asked for."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.example import Example, Outline

__all__ = ["YES_NO", "Item", "ItemSource", "array_source", "spread"]

Place = TypeVar("Place")

YES_NO = ("yes", "no")
"""The choices of a question that is answered so."""


@dataclass(frozen=True)
class Item(Generic[Place]):
    """An example whose picture is not opened yet: `place` says where it is, None: text alone."""

    place: Place | None
    question: str
    answer: str
    choices: tuple[str, ...] | None = None


class ItemSource(Generic[Place]):
    """Examples in the order of `items`; `open_picture` makes the upright RGB picture at a place.

    `broken_records`: the faults of the records that are none of the items (see `training.data.broken`).
    """

    def __init__(
        self,
        items: Sequence[Item[Place]],
        open_picture: Callable[[Place], Image.Image],
        broken_records: Sequence[str] = (),
    ) -> None:
        self._items, self._open = items, open_picture
        self.broken_records = tuple(broken_records)

    @property
    def items(self) -> Sequence[Item[Place]]:
        """All items, no picture opened."""
        return self._items

    @property
    def answers(self) -> frozenset[str]:
        """Every answer there is."""
        return frozenset(item.answer for item in self._items)

    @property
    def without_picture(self) -> int:
        """Examples that are text alone."""
        return sum(item.place is None for item in self._items)

    def outline(self, index: int) -> Outline:
        """An example without its picture."""
        item = self._items[index]
        return Outline(item.question, item.answer, item.place is not None)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Example:
        item = self._items[index]
        picture = None if item.place is None else self._open(item.place)
        return Example(picture, item.question, item.answer, item.choices)


def spread(items: Sequence[Item[Place]], limit: int | None) -> list[Item[Place]]:
    """The items with their answers taken in turn, so that any prefix is balanced; `limit` of them at most.

    Items of one answer keep their order. An answer that has no items left is passed over.
    """
    seen: Counter[str] = Counter()
    keyed = []
    for number, item in enumerate(items):
        keyed.append((seen[item.answer], item.answer, number))
        seen[item.answer] += 1
    return [items[number] for _, _, number in sorted(keyed)[:limit]]


def array_source(
    pictures: Callable[[int], NDArray[np.uint8]],
    labels: Sequence[int],
    names: Sequence[str],
    *,
    question: str,
    limit: int | None,
) -> ItemSource[int]:
    """A source of pictures that are all in memory.

    Args:
        pictures: number of a picture -> its values, (height, width, 3), uint8, red first, top row first.
        labels: each picture's class, a place in `names`.
        names: the classes, which are the choices.
    """
    choices = tuple(names)
    items = [Item(number, question, choices[label], choices) for number, label in enumerate(labels)]
    return ItemSource(
        spread(items, limit), lambda number: Image.fromarray(np.ascontiguousarray(pictures(number)))
    )
