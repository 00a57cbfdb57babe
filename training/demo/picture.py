"""The demo's pictures: for each task what went in, what the model saw, and what was said before and after."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from prompts.bundle import Bundle
from prompts.frame import frame_picture, to_display
from training.data import Example, ExampleSource
from training.demo.asking import Answer

__all__ = ["draw_sheet"]

_SIDE, _GAP, _LINE_HEIGHT = 224, 16, 20
_QUESTION_LINES, _LINE_LENGTH = 2, 32
_GOOD, _BAD, _INK, _PAPER = (20, 120, 50), (170, 30, 30), (30, 30, 30), (255, 255, 255)


def draw_sheet(
    bundle: Bundle,
    source: ExampleSource,
    base: Sequence[Answer],
    task: Sequence[Answer],
    out: Path,
    *,
    shown: int = 6,
) -> None:
    """Writes one PNG: a column per held-out picture, under it the right answer, the base model's, the task's.

    Of the pictures those come first where the two differ; a second row shows them framed, if the task has
    a frame.
    """
    order = sorted(range(len(source)), key=lambda index: base[index].said == task[index].said)[:shown]
    framed = bundle.manifest.frame is not None
    rows = 2 if framed else 1
    height = _GAP + rows * (_SIDE + _GAP) + (_QUESTION_LINES + 3) * _LINE_HEIGHT + _GAP
    sheet = Image.new("RGB", (_GAP + len(order) * (_SIDE + _GAP), height), _PAPER)
    for column, index in enumerate(order):
        left = _GAP + column * (_SIDE + _GAP)
        picture = source[index].picture
        if picture is not None:
            sheet.paste(picture.resize((_SIDE, _SIDE)), (left, _GAP))
            if bundle.manifest.frame is not None and bundle.frame_delta is not None:
                seen = to_display(frame_picture(picture, bundle.manifest.frame, bundle.frame_delta))
                sheet.paste(seen.resize((_SIDE, _SIDE)), (left, _GAP + _SIDE + _GAP))
        _write(sheet, left, _GAP + rows * (_SIDE + _GAP), source[index], base[index], task[index])
    sheet.save(out)


def _write(sheet: Image.Image, left: int, top: int, example: Example, base: Answer, task: Answer) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    wrapped = textwrap.wrap(example.question, _LINE_LENGTH)[:_QUESTION_LINES]
    lines = [(line, _INK) for line in wrapped + [""] * (_QUESTION_LINES - len(wrapped))]
    lines.append((f"right: {example.answer}", _INK))
    for label, answer in (("base", base), ("task", task)):
        lines.append((f"{label}: {answer.said}", _GOOD if answer.right else _BAD))
    for number, (text, colour) in enumerate(lines):
        pen.text((left, top + number * _LINE_HEIGHT), text, fill=colour, font=font)
