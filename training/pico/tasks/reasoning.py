"""Several glyphs: how many there are, whether one is there, and how the kinds of two of them relate."""

from collections.abc import Sequence

import numpy as np

from training.data import Example
from training.pico.glyphs import Glyph
from training.pico.tasks.base import CATEGORIES, KINDS, YES_NO, compose, known_members, some_known

__all__ = ["COUNTS", "count", "kind_beside", "missing_kind", "presence", "same_kind"]

COUNTS = ("one", "two", "three", "four")
COUNT_QUESTION = "How many things are in the picture?"
SAME_QUESTION = "Are the two things in the picture of the same kind?"
BESIDE_QUESTION = "What kind of thing is beside the {kind}?"
MISSING_QUESTION = "Which kind of thing is not in the picture?"


def count(rng: np.random.Generator, split: str) -> Example:
    """One to four different glyphs."""
    number = int(rng.integers(1, len(COUNTS) + 1))
    return compose(rng, some_known(rng, number), COUNT_QUESTION, COUNTS[number - 1], COUNTS)


def presence(rng: np.random.Generator, split: str) -> Example:
    """Two glyphs; the question names one of them or a third, half and half."""
    *shown, absent = some_known(rng, 3)
    present = bool(rng.integers(2))
    asked = shown[int(rng.integers(2))] if present else absent
    question = f"Is there a {asked.name} in the picture?"
    return compose(rng, shown, question, YES_NO[0 if present else 1], YES_NO)


def same_kind(rng: np.random.Generator, split: str) -> Example:
    """Two different glyphs of one of `CATEGORIES` or of two of them, half and half.

    Each glyph's kind is uniform whatever the answer is: one glyph alone, or the question, says nothing.
    """
    same = bool(rng.integers(2))
    kinds = _some(rng, CATEGORIES, 1) * 2 if same else _some(rng, CATEGORIES, 2)
    return compose(rng, _of_kinds(rng, kinds), SAME_QUESTION, YES_NO[0 if same else 1], YES_NO)


def kind_beside(rng: np.random.Generator, split: str) -> Example:
    """Two glyphs of different kinds; the question names the one, the answer is the other's kind.

    Kinds are uniform over `CATEGORIES`. Without the picture one answer in four is right; who sees the two
    kinds and does not heed the question is right half the time.
    """
    asked, answer = kinds = _some(rng, CATEGORIES, 2)
    return compose(rng, _of_kinds(rng, kinds), BESIDE_QUESTION.format(kind=asked), answer, CATEGORIES)


def missing_kind(rng: np.random.Generator, split: str) -> Example:
    """Two glyphs of two of the three `KINDS`; the answer is the third.

    Both must be seen: one glyph alone leaves two answers, each as likely as the other.
    """
    *kinds, answer = _some(rng, KINDS, len(KINDS))
    return compose(rng, _of_kinds(rng, kinds), MISSING_QUESTION, answer, KINDS)


def _some(rng: np.random.Generator, kinds: Sequence[str], number: int) -> list[str]:
    """`number` different ones in random order."""
    return [kinds[index] for index in rng.choice(len(kinds), number, replace=False)]


def _of_kinds(rng: np.random.Generator, kinds: Sequence[str]) -> list[Glyph]:
    """A glyph of each kind, all different, in random order."""
    chosen: list[Glyph] = []
    for kind in kinds:
        members = [glyph for glyph in known_members()[kind] if glyph not in chosen]
        chosen.append(members[int(rng.integers(len(members)))])
    return [chosen[index] for index in rng.permutation(len(chosen))]
