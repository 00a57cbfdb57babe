"""Instructions whose scenes are made for the question: colour of the ground, place, size and number."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.data import Example
from training.pico.glyphs import GLYPH_PIXELS, Glyph, draw_glyph
from training.pico.scenes import CANVAS_PIXELS, Placement, Scene, draw_scene, random_scene
from training.pico.tasks.base import some_known
from training.pico.tasks.phrases import asked

__all__ = ["COLOURS", "SIDES", "background", "drawn_pixels", "larger", "more", "position"]

COLOURS = {
    "red": (216, 60, 52),
    "orange": (242, 148, 38),
    "yellow": (244, 220, 68),
    "green": (84, 178, 88),
    "blue": (74, 126, 222),
    "purple": (146, 84, 192),
    "grey": (146, 146, 146),
    "white": (243, 243, 243),
}
"""Name -> its red, green and blue; what is drawn differs by `_TINT` at most."""
_TINT = 10

SIDES = ("left", "right", "top", "bottom")
_PAIR_SIDES = (64, 92)
"""Side of a glyph's square, in pixels, where two stand opposite each other."""
_OFF_MIDDLE = 16
_TURN = 0.2
_SPREAD = 1.1
"""How much longer a drawing may get when it is turned by `_TURN`."""

_LARGE, _SMALL = (100, 121), (44, 65)
"""Height or width of what is drawn, whichever is longer, in pixels: 1.5 times at least."""
_MANY_SIDES = (44, 59)
_TRIES = 10_000
_NUMBERS = ((1, 2), (1, 3), (1, 4), (2, 3))


def background(rng: np.random.Generator, split: str) -> Example:
    """A known glyph on a ground of one of `COLOURS`; each colour as often."""
    names = tuple(COLOURS)
    colour = names[int(rng.integers(len(names)))]
    scene = random_scene(rng, some_known(rng, 1))
    cells = int(rng.integers(1, 4))
    levels = np.array(COLOURS[colour]) + rng.integers(-_TINT, _TINT + 1, (cells, cells, 3))
    grid = tuple(tuple((red, green, blue) for red, green, blue in row) for row in levels.tolist())
    picture = draw_scene(replace(scene, background=grid, smooth=True))
    return Example(picture, asked(rng, "background"), colour, names)


def position(rng: np.random.Generator, split: str) -> Example:
    """Two known glyphs opposite each other, side by side or one above the other; one is asked for.

    Its middle is off the picture's by a third of it and more along the one axis, by `_OFF_MIDDLE` at most
    along the other.
    """
    named, other = some_known(rng, 2)
    where = int(rng.integers(len(SIDES)))
    opposite = where ^ 1
    placed = [_at_side(rng, named, SIDES[where]), _at_side(rng, other, SIDES[opposite])]
    picture = draw_scene(_scene(rng, placed))
    return Example(picture, asked(rng, "position", name=named.name), SIDES[where], SIDES)


def larger(rng: np.random.Generator, split: str) -> Example:
    """Two known glyphs, what is drawn of one 1.5 times as long at least; the answer is its name."""
    large, small = some_known(rng, 2)
    lengths = [(glyph, int(rng.integers(*span))) for glyph, span in ((large, _LARGE), (small, _SMALL))]
    placed = _apart(rng, [(glyph, _side_for(glyph, length)) for glyph, length in lengths])
    return _compared(rng, placed, "larger", large, small)


def more(rng: np.random.Generator, split: str) -> Example:
    """Two known glyphs, one more times than the other, five in all at most; the answer is its name."""
    many, few = some_known(rng, 2)
    fewer, greater = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    side = int(rng.integers(*_MANY_SIDES))
    glyphs = [glyph for glyph, number in ((many, greater), (few, fewer)) for _ in range(number)]
    placed = _apart(rng, [(glyphs[index], side) for index in rng.permutation(len(glyphs))])
    return _compared(rng, placed, "more", many, few)


def drawn_pixels(glyph: Glyph, side: int) -> float:
    """The longer of height and width of what is drawn of a glyph in a square of `side` pixels."""
    return _drawn_share(glyph) * side


@functools.cache
def _drawn_share(glyph: Glyph) -> float:
    box = draw_glyph(glyph.code).getchannel("A").getbbox()
    assert box is not None, f"{glyph.name} is empty"
    return max(box[2] - box[0], box[3] - box[1]) / GLYPH_PIXELS


def _side_for(glyph: Glyph, length: int) -> int:
    return round(length / drawn_pixels(glyph, 1))


def _compared(
    rng: np.random.Generator, placed: Sequence[Placement], instruction: str, right: Glyph, wrong: Glyph
) -> Example:
    """The two names stand in the question in random order, which is the choices' too."""
    names = (right.name, wrong.name) if rng.integers(2) else (wrong.name, right.name)
    question = asked(rng, instruction, first=names[0], second=names[1])
    return Example(draw_scene(_scene(rng, placed)), question, right.name, names)


def _scene(rng: np.random.Generator, placed: Sequence[Placement]) -> Scene:
    """On a random light ground, as the older tasks have it."""
    return replace(random_scene(rng, [placed[0].glyph]), placements=tuple(placed))


def _at_side(rng: np.random.Generator, glyph: Glyph, where: str) -> Placement:
    side = int(rng.integers(*_PAIR_SIDES))
    near = int(rng.integers(0, CANVAS_PIXELS // 2 - side - 15))
    along = near if where in ("left", "top") else CANVAS_PIXELS - side - near
    across = (CANVAS_PIXELS - side) // 2 + int(rng.integers(-_OFF_MIDDLE, _OFF_MIDDLE + 1))
    left, top = (along, across) if where in ("left", "right") else (across, along)
    return Placement(glyph, side, float(rng.uniform(-_TURN, _TURN)), left, top)


def _apart(rng: np.random.Generator, wanted: Sequence[tuple[Glyph, int]]) -> list[Placement]:
    """Glyphs with their sides where what is drawn is whole and touches no other; tried anew until they fit.

    A square's empty rim may leave the picture.
    """
    for _ in range(_TRIES):
        placed: list[Placement] = []
        for glyph, side in wanted:
            rim = int((side - _SPREAD * drawn_pixels(glyph, side)) / 2)
            left, top = (int(place) for place in rng.integers(-rim, CANVAS_PIXELS - side + rim + 1, 2))
            one = Placement(glyph, side, float(rng.uniform(-_TURN, _TURN)), left, top)
            if any(_touch(one, other) for other in placed):
                break
            placed.append(one)
        if len(placed) == len(wanted):
            return placed
    raise AssertionError(f"no room for glyphs of {[side for _, side in wanted]} pixels")


def _touch(one: Placement, other: Placement) -> bool:
    """Whether the boxes of what is drawn overlap."""
    span = _SPREAD * sum(drawn_pixels(placed.glyph, placed.side) for placed in (one, other)) / 2
    across = abs(one.left + one.side / 2 - other.left - other.side / 2)
    down = abs(one.top + one.side / 2 - other.top - other.side / 2)
    return across < span and down < span
