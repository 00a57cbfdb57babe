"""The pico tasks: what a learned prompt can be taught and measured on, drawn on the fly.

Each task is a function from a random generator to one example. The split's seed (from `split.json`) keeps
train, val and test pictures apart; the index alone decides the example.
"""

import functools
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.data import Example
from training.pico.glyphs import Glyph, Style, group_of, load_split
from training.pico.scenes import draw_scene, random_scene

__all__ = ["CATEGORIES", "COUNTS", "LINE_NAMES", "NAME_QUESTION", "TASKS", "PicoSource", "make_source"]

NAME_QUESTION = "What is in the picture?"
COUNT_QUESTION = "How many things are in the picture?"
CATEGORY_QUESTION = "What kind of thing is in the picture?"
CATEGORIES = ("animal", "food", "vehicle", "clothing", "face")
KINDS = ("food", "vehicle", "face")
COUNTS = ("one", "two", "three", "four")
YES_NO = ("yes", "no")
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


def _name(rng: np.random.Generator) -> Example:
    return _naming(rng, "known", "colour")


def _name_line(rng: np.random.Generator) -> Example:
    return _naming(rng, "known", "line")


def _name_held_out(rng: np.random.Generator) -> Example:
    return _naming(rng, "held_out", "colour")


def _naming(rng: np.random.Generator, part: str, style: Style) -> Example:
    """One glyph, ten candidate names of the same part of the split, the right one at a random place."""
    glyphs = load_split()[part]
    candidates = [glyphs[index] for index in rng.choice(len(glyphs), _CANDIDATES, replace=False)]
    shown = candidates[int(rng.integers(_CANDIDATES))]
    return _example(rng, [shown], NAME_QUESTION, shown.name, tuple(glyph.name for glyph in candidates), style)


def _lines(rng: np.random.Generator) -> Example:
    """A black line drawing of one of ten glyphs."""
    shown = _line_glyphs()[int(rng.integers(len(LINE_NAMES)))]
    return _example(rng, [shown], NAME_QUESTION, shown.name, LINE_NAMES, "line")


def _count(rng: np.random.Generator) -> Example:
    """One to four different glyphs."""
    count = int(rng.integers(1, len(COUNTS) + 1))
    return _example(rng, _some_known(rng, count), COUNT_QUESTION, COUNTS[count - 1], COUNTS)


def _presence(rng: np.random.Generator) -> Example:
    """Two glyphs; the question names one of them or a third, half and half."""
    *shown, absent = _some_known(rng, 3)
    present = bool(rng.integers(2))
    asked = shown[int(rng.integers(2))] if present else absent
    question = f"Is there a {asked.name} in the picture?"
    return _example(rng, shown, question, YES_NO[0 if present else 1], YES_NO)


def _category(rng: np.random.Generator) -> Example:
    return _grouped(rng, CATEGORIES)


def _kind(rng: np.random.Generator) -> Example:
    return _grouped(rng, KINDS)


def _grouped(rng: np.random.Generator, groups: tuple[str, ...]) -> Example:
    """One glyph of a group; each group as often as the others."""
    group = groups[int(rng.integers(len(groups)))]
    members = _members()[group]
    shown = members[int(rng.integers(len(members)))]
    return _example(rng, [shown], CATEGORY_QUESTION, group, groups)


TASKS: dict[str, Callable[[np.random.Generator], Example]] = {
    "category": _category,
    "count": _count,
    "kind": _kind,
    "lines": _lines,
    "name": _name,
    "name_held_out": _name_held_out,
    "name_line": _name_line,
    "presence": _presence,
}


@dataclass(frozen=True)
class PicoSource:
    """`size` examples of one task; example i is drawn from (split seed, task, seed, i)."""

    task: str
    split: str
    size: int
    seed: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"example {index} of {self.size}")
        key = [_split_seeds()[self.split], zlib.crc32(self.task.encode()), self.seed, index]
        return TASKS[self.task](np.random.default_rng(key))


def make_source(task: str, split: str, size: int, seed: int) -> PicoSource:
    """The source of a pico task's examples.

    Raises:
        ConfigError: no such task.
    """
    if task not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise ConfigError(
            "data",
            [fault("data.task", expected=f"one of {known}", came=shown(task), cure="correct the name")],
        )
    return PicoSource(task, split, size, seed)


def _example(
    rng: np.random.Generator,
    glyphs: Sequence[Glyph],
    question: str,
    answer: str,
    choices: tuple[str, ...],
    style: Style = "colour",
) -> Example:
    return Example(draw_scene(random_scene(rng, glyphs, style)), question, answer, choices)


def _some_known(rng: np.random.Generator, count: int) -> list[Glyph]:
    known = load_split()["known"]
    return [known[index] for index in rng.choice(len(known), count, replace=False)]


@functools.cache
def _line_glyphs() -> tuple[Glyph, ...]:
    by_name = {glyph.name: glyph for glyph in load_split()["known"]}
    return tuple(by_name[name] for name in LINE_NAMES)


@functools.cache
def _members() -> dict[str, tuple[Glyph, ...]]:
    known = load_split()["known"]
    return {category: tuple(g for g in known if group_of(g) == category) for category in CATEGORIES}


@functools.cache
def _split_seeds() -> dict[str, int]:
    text = resources.files(__package__).joinpath("split.json").read_text(encoding="utf-8")
    seeds: dict[str, int] = json.loads(text)["seeds"]
    return seeds
