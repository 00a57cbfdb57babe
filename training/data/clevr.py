"""CLEVR (Johnson et al. 2017): questions about drawn scenes. The TVP paper counts on it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from prompts.errors import ConfigError
from prompts.faults import fault, validation_faults
from training.data.config import ClevrData
from training.data.files import FAULTS_GATHERED, file_source, read_file, refuse
from training.data.items import YES_NO, Item, ItemSource

__all__ = ["ANSWERS", "COUNTS", "open_clevr"]

COUNTS = tuple(str(number) for number in range(11))
ANSWERS = (
    COUNTS,
    YES_NO,
    ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"),
    ("cube", "cylinder", "sphere"),
    ("metal", "rubber"),
    ("large", "small"),
)
"""The answers there are, by what is asked for; those of a kind are a question's choices."""

_CHOICES = {answer: group for group in ANSWERS for answer in group}
_LAYOUT = "questions/CLEVR_<split>_questions.json and images/<split>/*.png"
_KEPT = ("questions", "question", "answer", "image_filename")


class _Question(BaseModel):
    question: str
    answer: str
    image_filename: str


class _Questions(BaseModel):
    questions: list[_Question]


def open_clevr(entry: ClevrData) -> ItemSource[Path]:
    """The questions of one split, interleaved by answer; only those answered by a number if so told.

    A question is left out where its picture is missing or outside the folder.

    Raises:
        ConfigError: the file of questions is missing or broken, or no question is left.
    """
    file = entry.root / "questions" / f"CLEVR_{entry.split}_questions.json"
    found = _read_questions(file)
    if entry.only == "counting":
        found = [one for one in found if one.answer in COUNTS]
    foreign = sorted({one.answer for one in found} - _CHOICES.keys())
    if foreign or not found:
        expected = "questions with CLEVR's answers"
        came = f"{', '.join(foreign[:5]) or 'no question'} in {file}"
        refuse([fault("root", expected=expected, came=came, cure="unpack the set again")])
    items = [
        Item(one.image_filename, entry.ask(one.question), one.answer, _CHOICES[one.answer]) for one in found
    ]
    folder = entry.root / "images" / entry.split
    return file_source(items, entry.limit, folder=folder, expected=_LAYOUT)


def _read_questions(file: Path) -> Sequence[_Question]:
    text = read_file("root", file, expected=_LAYOUT)
    try:
        return _Questions.model_validate(json.loads(text, object_hook=_trimmed)).questions
    except ValidationError as error:
        raise ConfigError("data", validation_faults(error, source=file.name)[:FAULTS_GATHERED]) from error
    except ValueError as error:
        came, cure = f"{file}: {error}", "unpack the set again"
        raise ConfigError("data", [fault("root", expected="JSON", came=came, cure=cure)]) from error


def _trimmed(found: dict[str, Any]) -> dict[str, Any]:
    """What is needed of an object. The programs go while the file is read: it is 700 MB of them."""
    return {key: found[key] for key in _KEPT if key in found}
