"""Instructions whose pictures the older tasks draw: the question alone is another, in several phrasings."""

from dataclasses import replace

import numpy as np

from training.data import Example
from training.pico.tasks import digits, reasoning, recognition
from training.pico.tasks.base import YES_NO, Draw, compose, some_known
from training.pico.tasks.phrases import a, asked

__all__ = ["category", "count", "digit", "lines", "name", "presence"]


def name(rng: np.random.Generator, split: str) -> Example:
    """A known glyph in colour, ten candidate names."""
    return _anew(rng, split, recognition.name, "name")


def lines(rng: np.random.Generator, split: str) -> Example:
    """A known glyph as a black line drawing, ten candidate names."""
    return _anew(rng, split, recognition.name_line, "lines")


def category(rng: np.random.Generator, split: str) -> Example:
    """One glyph of five groups."""
    return _anew(rng, split, recognition.category, "category")


def count(rng: np.random.Generator, split: str) -> Example:
    """One to four different glyphs."""
    return _anew(rng, split, reasoning.count, "count")


def digit(rng: np.random.Generator, split: str) -> Example:
    """A handwritten digit of the split."""
    return _anew(rng, split, digits.digits, "digits")


def presence(rng: np.random.Generator, split: str) -> Example:
    """Two glyphs; the question names one of them or a third, half and half."""
    *shown, absent = some_known(rng, 3)
    present = bool(rng.integers(2))
    named = shown[int(rng.integers(2))] if present else absent
    question = asked(rng, "presence", a_name=a(named.name))
    return compose(rng, shown, question, YES_NO[0 if present else 1], YES_NO)


def _anew(rng: np.random.Generator, split: str, draw: Draw, instruction: str) -> Example:
    example = draw(rng, split)
    return replace(example, question=asked(rng, instruction))
