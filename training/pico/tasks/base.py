"""What the pico tasks share: the contract of a task, the groups they ask about, and the way to an example."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from training.data import Example
from training.data.items import YES_NO
from training.pico.glyphs import Glyph, Style, group_of, load_split
from training.pico.scenes import draw_scene, random_scene

__all__ = ["CATEGORIES", "KINDS", "YES_NO", "Draw", "article", "compose", "known_members", "some_known"]

Draw = Callable[[np.random.Generator, str], Example]
"""A task: a random generator and the split's name (`train`, `val` or `test`) in, one example out."""

CATEGORIES = ("animal", "food", "vehicle", "clothing", "face")
KINDS = ("food", "vehicle", "face")


def compose(
    rng: np.random.Generator,
    glyphs: Sequence[Glyph],
    question: str,
    answer: str,
    choices: tuple[str, ...],
    style: Style = "colour",
) -> Example:
    """An example whose picture shows `glyphs` (one to five) in a random scene."""
    return Example(draw_scene(random_scene(rng, glyphs, style)), question, answer, choices)


def some_known(rng: np.random.Generator, count: int) -> list[Glyph]:
    """`count` different known glyphs, each as likely as the others."""
    known = load_split()["known"]
    return [known[index] for index in rng.choice(len(known), count, replace=False)]


@functools.cache
def known_members() -> dict[str, tuple[Glyph, ...]]:
    """The known glyphs of each of `CATEGORIES`."""
    known = load_split()["known"]
    return {category: tuple(g for g in known if group_of(g) == category) for category in CATEGORIES}


def article(name: str) -> str:
    """`a` or `an`, by the sound that `name` begins with."""
    return "an" if name[0] in "aeiou" and not name.startswith(("eu", "uni")) else "a"
