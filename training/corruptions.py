"""Common corruptions of pictures at three severities: how a prompt holds when pictures get worse.

The kinds are those of Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations" (ICLR 2019): noise, blur, weather, light and compression. The means and the strengths are
our own, in PIL and numpy alone: figures compare with each other, not with ImageNet-C. Strengths are for
pictures of about 224 pixels: lengths grow with the picture's shorter side.
"""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.data import Example, ExampleSource

__all__ = ["CORRUPTIONS", "SEVERITIES", "CorruptedSource", "corrupt"]

SEVERITIES = (1, 2, 3)
_USUAL_SIDE = 224

Pixels = npt.NDArray[np.float64]
"""An RGB picture, (H, W, 3), 0 to 1; a corruption may leave the range, `corrupt` clips it."""

Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]
"""Pixels, severity (1, 2 or 3) and randomness in, pixels of the same shape out."""


def gaussian_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Adds normal noise to each value, as of a sensor in low light."""
    return pixels + _at(severity, 0.08, 0.16, 0.28) * rng.standard_normal(pixels.shape)


def shot_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Counts photons: each value is a Poisson draw, so that light places are noisier."""
    photons = _at(severity, 50.0, 16.0, 6.0)
    return rng.poisson(pixels * photons) / photons


def impulse_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Salt and pepper: a share of the values is black or white."""
    share = _at(severity, 0.03, 0.09, 0.2)
    drawn = rng.random(pixels.shape)
    return np.where(drawn < share, np.where(drawn < share / 2, 0.0, 1.0), pixels)


def gaussian_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Weights neighbours by a normal curve."""
    return _blurred(pixels, _at(severity, 1.2, 2.5, 4.5) * _scale(pixels))


def defocus_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Spreads each point over a disc, as a lens out of focus."""
    radius = _at(severity, 2.0, 4.0, 6.5) * _scale(pixels)
    reach = range(-math.ceil(radius), math.ceil(radius) + 1)
    return _mean_of_shifts(
        pixels, [(down, right) for down in reach for right in reach if math.hypot(down, right) <= radius]
    )


def motion_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Spreads each point along a line in a random direction, as a camera that moves."""
    length = _at(severity, 7.0, 14.0, 24.0) * _scale(pixels)
    angle = rng.uniform(0, math.pi)
    steps = np.linspace(-length / 2, length / 2, 2 * math.ceil(length))
    line = {(round(step * math.sin(angle)), round(step * math.cos(angle))) for step in steps}
    return _mean_of_shifts(pixels, sorted(line))


def fog(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Fades into clouds of light grey, thicker in some places."""
    thick = _at(severity, 0.4, 0.58, 0.74)
    cover = np.clip(thick + 0.35 * (_clouds(pixels.shape[:2], rng) - 0.5), 0, 1)[..., None]
    return pixels * (1 - cover) + 0.9 * cover


def snow(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """White flakes that fall slantwise before a picture that pales."""
    share, pale = _at(severity, 0.006, 0.014, 0.028), _at(severity, 0.1, 0.18, 0.26)
    seeds = (rng.random(pixels.shape[:2]) < share)[..., None] * np.ones(3)
    flakes = _blurred(seeds, 0.9 * _scale(pixels))
    slant = rng.uniform(-0.5, 0.5)
    fall = [(step, round(slant * step)) for step in range(math.ceil(5 * _scale(pixels)))]
    cover = np.clip(9 * _mean_of_shifts(flakes, fall), 0, 1)
    paled = pixels * (1 - pale) + pale
    return paled * (1 - cover) + cover


def brightness(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Adds light to every value, as an exposure too long."""
    return pixels + _at(severity, 0.15, 0.28, 0.42)


def contrast(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Draws every value towards the picture's mean."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return mean + _at(severity, 0.55, 0.32, 0.15) * (pixels - mean)


def jpeg(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Saves as JPEG of low quality and reads it again."""
    file = io.BytesIO()
    _picture(pixels).save(file, "JPEG", quality=int(_at(severity, 25, 11, 5)))
    return _pixels(Image.open(file))


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "gaussian_blur": gaussian_blur,
    "defocus_blur": defocus_blur,
    "motion_blur": motion_blur,
    "fog": fog,
    "snow": snow,
    "brightness": brightness,
    "contrast": contrast,
    "jpeg": jpeg,
}


def corrupt(picture: Image.Image, name: str, severity: int, seed: int | tuple[int, ...]) -> Image.Image:
    """The picture after corruption `name`, of the same size and mode; the same seed gives the same picture.

    Colours are corrupted as RGB; an alpha channel stays as it is.

    Raises:
        ConfigError: no such corruption or severity.
    """
    _check(name, severity)
    rng = np.random.default_rng(seed)
    corrupted = _picture(CORRUPTIONS[name](_pixels(picture), severity, rng)).convert(picture.mode)
    if "A" in picture.getbands():
        corrupted.putalpha(picture.getchannel("A"))
    return corrupted


@dataclass(frozen=True)
class CorruptedSource:
    """The examples of `source` with corrupted pictures; example i is corrupted from (seed, i).

    Examples without a picture stay as they are.

    Raises:
        ConfigError: no such corruption or severity.
    """

    source: ExampleSource
    name: str
    severity: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.name, self.severity)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Example:
        example = self.source[index]
        if example.picture is None:
            return example
        picture = corrupt(example.picture, self.name, self.severity, (self.seed, index))
        return replace(example, picture=picture)


def _check(name: str, severity: int) -> None:
    faults = []
    if name not in CORRUPTIONS:
        expected, cure = f"one of {', '.join(CORRUPTIONS)}", "correct the name"
        faults.append(fault("corruption", expected=expected, came=shown(name), cure=cure))
    if severity not in SEVERITIES:
        cure = "1 is the mildest, 3 the worst"
        faults.append(fault("severity", expected="1, 2 or 3", came=shown(severity), cure=cure))
    if faults:
        raise ConfigError("corruption", faults)


def _at(severity: int, mild: float, middling: float, worst: float) -> float:
    return (mild, middling, worst)[severity - 1]


def _scale(pixels: Pixels) -> float:
    """How much larger than usual the picture is."""
    return min(pixels.shape[:2]) / _USUAL_SIDE


def _pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.round(255 * pixels.clip(0, 1)).astype(np.uint8))


def _blurred(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian blur in 8 bits; `sigma` in pixels."""
    return _pixels(_picture(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def _mean_of_shifts(pixels: Pixels, shifts: Iterable[tuple[int, int]]) -> Pixels:
    """The mean of copies moved (down, right) by so many pixels; the border goes on outwards."""
    moves = list(shifts)
    reach = max(max(abs(down), abs(right)) for down, right in moves)
    wide = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    total = np.zeros_like(pixels)
    for down, right in moves:
        top, left = reach - down, reach - right
        total += wide[top : top + height, left : left + width]
    return total / len(moves)


def _clouds(size: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """Smooth noise (H, W), 0 to 1: coarse clouds with finer and fainter ones in them."""
    height, width = size
    total = np.zeros((height, width))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        total += smooth * 3 / cells
    least, most = float(total.min()), float(total.max())
    return (total - least) / max(most - least, 1e-9)
