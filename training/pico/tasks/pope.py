"""Hallucination as POPE asks for it: is there such a thing in the picture, or do you only expect it?

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (POPE), EMNLP 2023: half of the
questions name a thing that is there. The other half name one that is not, chosen in one of three ways:
`random` (any), `popular` (of those that occur most often in the data) and `adversarial` (of those that occur
most often together with what is shown). The paper asks three of each about a picture; here an index is one
question, and the three places of a ranking are drawn from at random.

For this the pictures come from a world with habits:

- Its things are the known glyphs of `CATEGORIES` whose names take an article (`world`).
- They have a fixed order of popularity: by the CRC-32 of the name, which means nothing and is the same
  everywhere. The thing of rank r weighs 1/r (Zipf).
- A picture shows three or four. The first comes by weight. Each further one is, three times in four, of the
  first's group, else of the whole world; again by weight, without repeats.

But for the repeats, s and t occur together as often as w_s·w_t·(0.75·[same group]/W_group + 0.25/W) says,
and each thing as often as its weight says; W is a sum of weights. That gives the two rankings.

The pictures and the yes-questions are the same for the three. As in the paper, a name alone says something:
who learned on `pope_random` which names mean yes (without a look) is right 72 times in 100 there, 33 times on
`pope_popular` and 38 times on `pope_adversarial`. So train on `pope_random` and measure on all three.
"""

import functools
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from training.data import Example
from training.pico.glyphs import Glyph, group_of
from training.pico.scenes import draw_scene, random_scene
from training.pico.tasks.base import YES_NO, article, known_members

__all__ = ["companions", "pope_adversarial", "pope_popular", "pope_random", "shown_together", "world"]

_FEWEST, _MOST = 3, 4
_COMPANY_SHARE = 0.75
_RANKED = 3
_NO_ARTICLE = frozenset(
    [
        "bacon",
        "broccoli",
        "canned food",
        "cooked rice",
        "french fries",
        "garlic",
        "goggles",
        "grapes",
        "shaved ice",
        "spaghetti",
    ]
)


def pope_random(rng: np.random.Generator, split: str) -> Example:
    """Absent names: any of the world's that are not shown."""
    return _ask(rng, lambda shown: world())


def pope_popular(rng: np.random.Generator, split: str) -> Example:
    """Absent names: one of the three most popular that are not shown."""
    return _ask(rng, lambda shown: world(), first=_RANKED)


def pope_adversarial(rng: np.random.Generator, split: str) -> Example:
    """Absent names: one of the three that most often stand beside a thing shown, and do not here."""
    return _ask(rng, lambda shown: companions(shown[int(rng.integers(len(shown)))]), first=_RANKED)


def _ask(
    rng: np.random.Generator,
    ranking: Callable[[Sequence[Glyph]], Sequence[Glyph]],
    first: int | None = None,
) -> Example:
    """One question; an absent thing is one of the `first` of the ranking that are not shown.

    The ranking is asked for last, so that what is drawn before does not depend on it.
    """
    shown = shown_together(rng)
    picture = draw_scene(random_scene(rng, shown))
    present = bool(rng.integers(2))
    asked = shown if present else [glyph for glyph in ranking(shown) if glyph not in shown][:first]
    name = asked[int(rng.integers(len(asked)))].name
    question = f"Is there {article(name)} {name} in the picture?"
    return Example(picture, question, YES_NO[0 if present else 1], YES_NO)


def shown_together(rng: np.random.Generator) -> list[Glyph]:
    """The things of one picture, by popularity and company as the world has it."""
    number = int(rng.integers(_FEWEST, _MOST + 1))
    shown = [_pick(rng, world())]
    while len(shown) < number:
        everything = rng.random() >= _COMPANY_SHARE
        pool = world() if everything else _company(group_of(shown[0]))
        shown.append(_pick(rng, [glyph for glyph in pool if glyph not in shown]))
    return shown


def _pick(rng: np.random.Generator, pool: Sequence[Glyph]) -> Glyph:
    weights = np.array([_weights()[glyph] for glyph in pool])
    return pool[int(rng.choice(len(pool), p=weights / weights.sum()))]


@functools.cache
def world() -> tuple[Glyph, ...]:
    """Everything that a picture may show, the most popular first."""
    members = [
        glyph for group in known_members().values() for glyph in group if glyph.name not in _NO_ARTICLE
    ]
    return tuple(sorted(members, key=lambda glyph: zlib.crc32(glyph.name.encode())))


@functools.cache
def companions(glyph: Glyph) -> tuple[Glyph, ...]:
    """The other things of the world, the one that occurs most often together with `glyph` first."""
    company = _company(group_of(glyph))
    inside, anywhere = (sum(_weights()[one] for one in group) for group in (company, world()))
    company_rate, rate = _COMPANY_SHARE / inside, (1 - _COMPANY_SHARE) / anywhere

    def together(other: Glyph) -> float:
        return _weights()[other] * (rate + (company_rate if other in company else 0.0))

    return tuple(sorted((other for other in world() if other != glyph), key=together, reverse=True))


@functools.cache
def _weights() -> dict[Glyph, float]:
    return {glyph: 1 / rank for rank, glyph in enumerate(world(), start=1)}


@functools.cache
def _company(group: str | None) -> tuple[Glyph, ...]:
    return tuple(glyph for glyph in world() if group_of(glyph) == group)
