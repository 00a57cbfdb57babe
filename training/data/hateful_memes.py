"""Hateful Memes (Kiela et al. 2020): picture and text together decide."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from training.data.config import HatefulMemesData
from training.data.files import file_source, read_lines
from training.data.items import YES_NO, Item, ItemSource

__all__ = ["open_hateful_memes"]

_LAYOUT = "{train,dev_seen,…}.jsonl, an {id, img, label, text} per line, and img/"


class _Meme(BaseModel):
    img: str
    text: str
    label: Literal[0, 1]

    @property
    def answer(self) -> str:
        return YES_NO[1 - self.label]


def open_hateful_memes(entry: HatefulMemesData) -> ItemSource[Path]:
    """The memes of one split, hateful (yes) and not (no) in turn.

    A broken line is left out, and so is one whose picture is missing or outside the folder.

    Raises:
        ConfigError: the file is missing, or no line of it is whole.
    """
    memes, faults = read_lines(entry.root / f"{entry.split}.jsonl", _Meme, expected=_LAYOUT)
    items = [Item(meme.img, entry.ask(meme.text), meme.answer, YES_NO) for meme in memes]
    return file_source(items, entry.limit, folder=entry.root, expected=_LAYOUT, faults=faults)
