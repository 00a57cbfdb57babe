"""POPE (Li et al. 2023): is the thing in the picture, or would the model make it up?"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from training.data.config import PopeData
from training.data.files import file_source, read_lines
from training.data.items import YES_NO, Item, ItemSource

__all__ = ["open_pope"]

_LAYOUT = "coco_pope_{random,popular,adversarial}.json, a {question_id, image, text, label} per line"


class _Line(BaseModel):
    image: str
    text: str
    label: Literal["yes", "no"]


def open_pope(entry: PopeData) -> ItemSource[Path]:
    """The questions of one sampling, yes and no in turn.

    A broken line is left out, and so is one whose picture is missing or outside the folder.

    Raises:
        ConfigError: the file is missing, or no line of it is whole.
    """
    file = entry.root / f"coco_pope_{entry.split}.json"
    lines, faults = read_lines(file, _Line, expected=_LAYOUT)
    items = [Item(line.image, entry.ask(line.text), line.label, YES_NO) for line in lines]
    expected = "the picture of each line"
    return file_source(
        items, entry.limit, folder=entry.images, field="images", expected=expected, faults=faults
    )
