"""Scenes: glyphs at varied place, size and angle on varied backgrounds, drawn from a seed.

A scene is data (`Scene`); `draw_scene` makes the picture. The same seed gives the same picture everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.pico.glyphs import GLYPH_PIXELS, Glyph, Style, draw_glyph

__all__ = ["CANVAS_PIXELS", "Placement", "Scene", "draw_scene", "random_scene"]

CANVAS_PIXELS = 224
_LARGEST = {1: (104, 200), 2: (72, 112), 3: (64, 104), 4: (60, 96), 5: (56, 84)}
_MAX_ANGLE = 0.35
_TRIES_PER_PLACE = 40


@dataclass(frozen=True)
class Placement:
    """One glyph in a scene: side and top-left corner in pixels, angle in radians."""

    glyph: Glyph
    side: int
    angle: float
    left: int
    top: int


@dataclass(frozen=True)
class Scene:
    """A picture as data: `background` is a coarse (rows, columns, 3) uint8 grid, smoothed or not."""

    background: tuple[tuple[tuple[int, int, int], ...], ...]
    smooth: bool
    placements: tuple[Placement, ...]
    style: Style

    @property
    def glyphs(self) -> tuple[Glyph, ...]:
        """The glyphs of the scene, in the order they were drawn."""
        return tuple(placement.glyph for placement in self.placements)


def random_scene(rng: np.random.Generator, glyphs: Sequence[Glyph], style: Style = "colour") -> Scene:
    """Places `glyphs` (one to five) without much overlap on a random light background."""
    background, smooth = _random_background(rng)
    return Scene(background, smooth, _random_placements(rng, glyphs), style)


def _random_background(rng: np.random.Generator) -> tuple[tuple[tuple[tuple[int, int, int], ...], ...], bool]:
    rows, columns, smooth = [(1, 1, True), (2, 1, True), (2, 2, True), (4, 4, True), (3, 3, False)][
        rng.integers(5)
    ]
    base = rng.uniform(0.45, 1.0, 3)
    grid = np.clip(base + rng.uniform(-0.14, 0.14, (rows, columns, 3)), 0.4, 1.0)
    cells = (255 * grid).astype(int).tolist()
    return tuple(tuple((red, green, blue) for red, green, blue in row) for row in cells), smooth


def _random_placements(rng: np.random.Generator, glyphs: Sequence[Glyph]) -> tuple[Placement, ...]:
    smallest, largest = _LARGEST[len(glyphs)]
    placed: list[Placement] = []
    for glyph in glyphs:
        side = int(rng.integers(smallest, largest + 1))
        angle = float(rng.uniform(-_MAX_ANGLE, _MAX_ANGLE))
        for _ in range(_TRIES_PER_PLACE):
            left, top = (int(v) for v in rng.integers(0, CANVAS_PIXELS - side + 1, 2))
            if all(_apart(left, top, side, other) for other in placed):
                break
        placed.append(Placement(glyph, side, angle, left, top))
    return tuple(placed)


def _apart(left: int, top: int, side: int, other: Placement) -> bool:
    """True where two squares' centres are far enough apart that neither glyph hides the other."""
    distance = math.hypot(
        left + side / 2 - other.left - other.side / 2, top + side / 2 - other.top - other.side / 2
    )
    return distance > 0.46 * (side + other.side)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of `CANVAS_PIXELS` squared."""
    cells = np.asarray(scene.background, dtype=np.uint8)
    resample = Image.Resampling.BILINEAR if scene.smooth else Image.Resampling.NEAREST
    picture = Image.fromarray(cells).resize((CANVAS_PIXELS, CANVAS_PIXELS), resample)
    for placement in scene.placements:
        drawn = _turned_glyph(placement, scene.style)
        picture.paste(drawn, (placement.left, placement.top), drawn)
    return picture


def _turned_glyph(placement: Placement, style: Style) -> Image.Image:
    """The glyph scaled to `side` and turned by `angle`, in one bilinear pass."""
    drawn = draw_glyph(placement.glyph.code, style)
    scale = GLYPH_PIXELS / placement.side
    cosine, sine = math.cos(placement.angle) * scale, math.sin(placement.angle) * scale
    half, middle = placement.side / 2, GLYPH_PIXELS / 2
    affine = (cosine, -sine, middle - half * (cosine - sine), sine, cosine, middle - half * (sine + cosine))
    size = (placement.side, placement.side)
    return drawn.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
