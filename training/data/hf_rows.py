"""From a row of a Hugging Face data set to examples; pictures are decoded as everywhere else."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image

from prompts.errors import PictureError, RecordError
from prompts.faults import shown
from prompts.picture import decode_picture
from training.data.config import HfData
from training.data.example import Example
from training.data.files import inside, read_picture
from training.data.items import Item
from training.data.llava_json import record_pairs

__all__ = ["RowReader"]


class RowReader:
    """What a config entry makes of a row.

    Args:
        names: the classes of the answer column where it holds their numbers, else None. They are the choices.
    """

    def __init__(self, entry: HfData, names: tuple[str, ...] | None) -> None:
        self._entry, self._names = entry, names

    @property
    def text_columns(self) -> list[str]:
        """The columns that question and answer come from."""
        entry = self._entry
        if entry.conversations_column is not None:
            return [entry.conversations_column]
        asks = [entry.question_column] if entry.slot in entry.question else []
        return [*asks, entry.answer_column]

    def items(self, row: Mapping[str, Any], place: int | None) -> list[Item[int]]:
        """The questions of a row; `place`: the row's number, None where it has no picture.

        Raises:
            ValueError: there is none; says what is wrong.
        """
        entry = self._entry
        if entry.conversations_column is not None:
            record = {"conversations": row[entry.conversations_column]}
            return [Item(place, asked, said) for _, asked, said in record_pairs(record, entry.turns)]
        question = entry.question
        if entry.slot in question:
            question = question.replace(entry.slot, self._text(row, entry.question_column))
        return [Item(place, question, self._answer(row), self._names)]

    def openers(self, row: Mapping[str, Any]) -> list[Callable[[], Example]]:
        """The examples of a streamed row, each opened when called (see `ExampleStream.rows`)."""
        value = None if self._entry.image_column is None else row.get(self._entry.image_column)
        try:
            found = self.items(row, None if value is None else 0)
        except ValueError as error:
            return [partial(_broken, f"{_label(row)}: {error}")]
        return [partial(self._example, item, value, _label(row)) for item in found]

    def picture(self, value: Any, label: str) -> Image.Image:
        """The picture of an image column's value: {bytes, path}, bytes, or a name below `images`.

        Raises:
            PictureError: it is broken, or no file of that name is there; with `label`, what to call the row.
            RecordError: it is none of these, or the name leads out of the folder.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            try:
                return decode_picture(value)
            except PictureError as error:
                raise PictureError(f"{label}: {error}") from error
        folder = self._entry.images
        path = inside(folder, value) if folder is not None and isinstance(value, str) else None
        if path is None:
            expected = "the picture's bytes, or its name in the folder `images`"
            raise RecordError(
                f"{label}: {self._entry.image_column}: expected {expected}, came {shown(value)}"
            )
        return read_picture(path)

    def _example(self, item: Item[int], value: Any, label: str) -> Example:
        picture = None if value is None else self.picture(value, label)
        return Example(picture, item.question, item.answer, item.choices)

    def _text(self, row: Mapping[str, Any], column: str) -> str:
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{column}: expected text, came {shown(text)}")
        return text.strip()

    def _answer(self, row: Mapping[str, Any]) -> str:
        """A class by its name, a whole number as digits."""
        column = self._entry.answer_column
        value = row.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            if self._names is None:
                return str(value)
            if 0 <= value < len(self._names):
                return self._names[value]
            raise ValueError(f"{column}: expected a class from 0 to {len(self._names) - 1}, came {value}")
        return self._text(row, column)


def _label(row: Mapping[str, Any]) -> str:
    """What to call a row whose number nobody knows: its `id`, where it has one."""
    return f"row {shown(row['id'])}" if row.get("id") is not None else "a row"


def _broken(reason: str) -> Example:
    raise RecordError(reason)
