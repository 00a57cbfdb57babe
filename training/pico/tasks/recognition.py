"""Recognition: one glyph, and what it is called or what kind of thing it is."""

import functools

import numpy as np

from training.data import Example
from training.pico.glyphs import Glyph, Style, load_split
from training.pico.tasks.base import CATEGORIES, KINDS, compose, known_members

__all__ = ["LINE_NAMES", "NAME_QUESTION", "category", "kind", "lines", "name", "name_held_out", "name_line"]

NAME_QUESTION = "What is in the picture?"
CATEGORY_QUESTION = "What kind of thing is in the picture?"
LINE_NAMES = (
    "bicycle",
    "broccoli",
    "camera",
    "crab",
    "guitar",
    "key",
    "owl",
    "rabbit face",
    "snail",
    "teapot",
)
_CANDIDATES = 10


def name(rng: np.random.Generator, split: str) -> Example:
    """A known glyph in colour, ten candidate names."""
    return _naming(rng, "known", "colour")


def name_line(rng: np.random.Generator, split: str) -> Example:
    """A known glyph as a black line drawing, ten candidate names."""
    return _naming(rng, "known", "line")


def name_held_out(rng: np.random.Generator, split: str) -> Example:
    """A glyph whose name was never taught, ten candidate names of that sort."""
    return _naming(rng, "held_out", "colour")


def _naming(rng: np.random.Generator, part: str, style: Style) -> Example:
    """One glyph, ten candidate names of the same part of the glyphs, the right one at a random place."""
    glyphs = load_split()[part]
    candidates = [glyphs[index] for index in rng.choice(len(glyphs), _CANDIDATES, replace=False)]
    shown = candidates[int(rng.integers(_CANDIDATES))]
    return compose(rng, [shown], NAME_QUESTION, shown.name, tuple(glyph.name for glyph in candidates), style)


def lines(rng: np.random.Generator, split: str) -> Example:
    """A black line drawing of one of ten glyphs."""
    shown = _line_glyphs()[int(rng.integers(len(LINE_NAMES)))]
    return compose(rng, [shown], NAME_QUESTION, shown.name, LINE_NAMES, "line")


def category(rng: np.random.Generator, split: str) -> Example:
    """One glyph of five groups."""
    return _grouped(rng, CATEGORIES)


def kind(rng: np.random.Generator, split: str) -> Example:
    """One glyph of three groups."""
    return _grouped(rng, KINDS)


def _grouped(rng: np.random.Generator, groups: tuple[str, ...]) -> Example:
    """One glyph of a group; each group as often as the others."""
    group = groups[int(rng.integers(len(groups)))]
    members = known_members()[group]
    shown = members[int(rng.integers(len(members)))]
    return compose(rng, [shown], CATEGORY_QUESTION, group, groups)


@functools.cache
def _line_glyphs() -> tuple[Glyph, ...]:
    by_name = {glyph.name: glyph for glyph in load_split()["known"]}
    return tuple(by_name[name] for name in LINE_NAMES)
