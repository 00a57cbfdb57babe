"""Instructions that are answered with what is drawn: descriptions, the odd one out, free chat.

What they list takes an article, and where kinds decide, it is of its kind beyond doubt (a shrimp is an animal
and food). A text that is no name has no closed set of answers; its choices are the right one and others
of the same form that are false.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from training.data import Example
from training.pico.glyphs import Glyph, load_split
from training.pico.scenes import Scene, draw_scene, random_scene
from training.pico.tasks.base import CATEGORIES, compose, known_members
from training.pico.tasks.phrases import a, asked, listed

__all__ = ["CHATS", "chat", "describe", "odd_one_out"]

_CANDIDATES = 4
_CLOSEST = 24
"""Pixels between the middles of two things, from left to right, below which their order is not told."""
_FEWEST, _MOST = 3, 4

_WITHOUT_ARTICLE = (
    "bacon|beans|breast-feeding|broccoli|building construction|canned food|children crossing|cooked rice|"
    "cooking|crossed flags|customs|dark sunglasses|eyes|film frames|fire|footprints|french fries|garlic|"
    "goggles|grapes|horse racing|house buildings|japanese dolls|juggling|kaaba|leafy green|low battery|"
    "mount fuji|mountain cableway|performing arts|person climbing|person frowning|popcorn|railway track|"
    "shaved ice|sleeping accommodation|spaghetti|tokyo tower|airplane arriving|wrestlers"
)
_BETWEEN_KINDS = (
    "crab|dragon face|egg|giraffe face|horse face|lobster|microbe|mouse face|ninja|oyster|pig nose|pouch|"
    "poultry leg|rabbit face|salt shaker|shrimp|squid|turkey"
)
_NO_ARTICLE, _OF_TWO_KINDS = (frozenset(names.split("|")) for names in (_WITHOUT_ARTICLE, _BETWEEN_KINDS))


def describe(rng: np.random.Generator, split: str) -> Example:
    """One to four known glyphs, listed from left to right; the wrong lists have one thing else in them."""
    number = int(rng.integers(1, _MOST + 1))
    shown, strangers = _some(rng, number), _some(rng, _CANDIDATES - 1 + number)
    scene = _in_line(rng, shown)
    names = _from_left(scene)
    others = [glyph.name for glyph in strangers if glyph not in shown][: _CANDIDATES - 1]
    wrong = [_with(names, int(rng.integers(number)), other) for other in others]
    choices = _shuffled(rng, [listed(names), *map(listed, wrong)])
    return Example(draw_scene(scene), asked(rng, "describe"), listed(names), choices)


def odd_one_out(rng: np.random.Generator, split: str) -> Example:
    """Three or four glyphs, all but one of the same kind; the answer is that one's name, of those shown."""
    kind, other = (CATEGORIES[index] for index in rng.choice(len(CATEGORIES), 2, replace=False))
    number = int(rng.integers(_FEWEST, _MOST + 1))
    alike, odd = _of_kind(rng, kind, number - 1), _of_kind(rng, other, 1)[0]
    shown = [[*alike, odd][index] for index in rng.permutation(number)]
    choices = tuple(glyph.name for glyph in shown)
    return compose(rng, shown, asked(rng, "odd_one_out"), odd.name, choices)


def chat(rng: np.random.Generator, split: str) -> Example:
    """One of `CHATS`: a question as people ask it, answered in words of its own about what is drawn."""
    return CHATS[int(rng.integers(len(CHATS)))](rng)


def _title(rng: np.random.Generator) -> Example:
    return _about_two(rng, "Give this picture a title.", "{} beside {}")


def _sentence(rng: np.random.Generator) -> Example:
    return _about_two(rng, "Tell me about this picture in one sentence.", "It shows {} and {}.")


def _eat(rng: np.random.Generator) -> Example:
    question = "I am hungry. Is there anything to eat in the picture?"
    return _of_use(rng, question, "food", ("vehicle", "clothing", "face"))


def _travel(rng: np.random.Generator) -> Example:
    question = "I want to travel. Is there anything in the picture that takes me?"
    return _of_use(rng, question, "vehicle", ("food", "clothing", "face"))


def _wear(rng: np.random.Generator) -> Example:
    return _of_use(rng, "Is there anything to wear in the picture?", "clothing", ("food", "vehicle"))


CHATS: tuple[Callable[[np.random.Generator], Example], ...] = (_title, _sentence, _eat, _travel, _wear)
"""The forms of free chat."""


def _about_two(rng: np.random.Generator, question: str, form: str) -> Example:
    """Two glyphs, the left one first; the wrong answers have one or both replaced."""
    scene = _in_line(rng, _some(rng, 2))
    first, second = _from_left(scene)
    others = [glyph.name for glyph in _some(rng, 4) if glyph not in scene.glyphs]
    pairs = [(first, second), (others[0], second), (first, others[1]), (others[1], others[0])]
    answers = [form.format(a(one), a(two)) for one, two in pairs]
    return Example(draw_scene(scene), question, answers[0], _shuffled(rng, answers))


def _of_use(rng: np.random.Generator, question: str, useful: str, useless: Sequence[str]) -> Example:
    """Two glyphs, half of the time one of them of the kind asked for; the answer names it, or is no."""
    kinds = [useless[int(rng.integers(len(useless)))] for _ in range(2)]
    place = int(rng.integers(2))
    there = bool(rng.integers(2))
    if there:
        kinds[place] = useful
    shown = _of_kinds(rng, kinds)
    choices = (*(f"Yes, {a(glyph.name)}." for glyph in shown), "No.")
    return compose(rng, shown, question, choices[place] if there else choices[-1], choices)


def _in_line(rng: np.random.Generator, glyphs: Sequence[Glyph]) -> Scene:
    """A random scene in which no two things stand at the same place from left to right."""
    while True:
        scene = random_scene(rng, glyphs)
        middles = sorted(placed.left + placed.side / 2 for placed in scene.placements)
        if all(right - left >= _CLOSEST for left, right in itertools.pairwise(middles)):
            return scene


def _from_left(scene: Scene) -> list[str]:
    placed = sorted(scene.placements, key=lambda one: one.left + one.side / 2)
    return [one.glyph.name for one in placed]


def _with(names: Sequence[str], place: int, other: str) -> list[str]:
    return [*names[:place], other, *names[place + 1 :]]


def _shuffled(rng: np.random.Generator, choices: Sequence[str]) -> tuple[str, ...]:
    return tuple(choices[index] for index in rng.permutation(len(choices)))


@functools.cache
def _listable() -> tuple[Glyph, ...]:
    return tuple(glyph for glyph in load_split()["known"] if glyph.name not in _NO_ARTICLE)


@functools.cache
def _clear(kind: str) -> tuple[Glyph, ...]:
    """The glyphs of a kind that are of no other and take an article."""
    unclear = _NO_ARTICLE | _OF_TWO_KINDS
    return tuple(glyph for glyph in known_members()[kind] if glyph.name not in unclear)


def _some(rng: np.random.Generator, number: int) -> list[Glyph]:
    glyphs = _listable()
    return [glyphs[index] for index in rng.choice(len(glyphs), number, replace=False)]


def _of_kind(rng: np.random.Generator, kind: str, number: int) -> list[Glyph]:
    members = _clear(kind)
    return [members[index] for index in rng.choice(len(members), number, replace=False)]


def _of_kinds(rng: np.random.Generator, kinds: Sequence[str]) -> list[Glyph]:
    """A glyph of each of two kinds, different ones."""
    first, second = kinds
    if first == second:
        return _of_kind(rng, first, 2)
    return [*_of_kind(rng, first, 1), *_of_kind(rng, second, 1)]
