"""Handwritten digits: scikit-learn's `load_digits`, 1,797 grey pictures of 8×8, scaled up into scenes."""

import functools
import zlib

import numpy as np
from PIL import Image

from training.data import Example
from training.pico.scenes import CANVAS_PIXELS, Scene, draw_scene

__all__ = ["DIGIT_NAMES", "digits", "split_digits"]

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_QUESTION = "Which digit is in the picture?"
_MOST_INK = 16  # of a pixel in the data set
_SIDES = (112, 224)
_DARKEST_GROUND = 190
_LIGHTEST_INK = 80
# A picture's checksum modulo ten says where it belongs.
_TENTHS = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}


def digits(rng: np.random.Generator, split: str) -> Example:
    """One digit of the split, dark on light, at varied place and size; each of the ten as often.

    Half of the grounds are plain, half pass between four light tints.
    """
    answer = int(rng.integers(len(DIGIT_NAMES)))
    written = split_digits(split)[answer]
    ink = Image.fromarray(np.pad(written[int(rng.integers(len(written)))], 1))  # strokes fade out at the edge
    side = int(rng.integers(*_SIDES))
    left, top = (int(place) for place in rng.integers(0, CANVAS_PIXELS - side + 1, 2))
    red, green, blue = (int(level) for level in rng.integers(0, _LIGHTEST_INK, 3))
    picture = _light_ground(rng)
    mask = ink.resize((side, side), Image.Resampling.BICUBIC)
    picture.paste((red, green, blue), (left, top), mask)
    return Example(picture, DIGIT_QUESTION, DIGIT_NAMES[answer], DIGIT_NAMES)


def _light_ground(rng: np.random.Generator) -> Image.Image:
    cells = int(rng.integers(1, 3))
    levels = rng.integers(_DARKEST_GROUND, 256, (cells, cells, 3)).tolist()
    grid = tuple(tuple((red, green, blue) for red, green, blue in row) for row in levels)
    return draw_scene(Scene(grid, True, (), "colour"))


@functools.cache
def split_digits(split: str) -> tuple[np.ndarray, ...]:
    """The split's pictures by digit, each (n, 8, 8) uint8, ink from 0 to 255.

    A picture belongs to train, val or test (6 : 2 : 2) by the CRC-32 of its own pixels. So the split is the
    same everywhere, and two equal pictures could not stand on both sides of it.
    """
    from sklearn.datasets import load_digits  # slow to import, and one task alone needs it

    found = load_digits()
    pictures, labels = found.images.astype(np.uint8), found.target
    here = np.array([zlib.crc32(picture.tobytes()) % 10 in _TENTHS[split] for picture in pictures])
    ink = (pictures.astype(np.uint16) * 255 // _MOST_INK).astype(np.uint8)
    return tuple(ink[here & (labels == digit)] for digit in range(len(DIGIT_NAMES)))
