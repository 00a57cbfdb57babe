"""Corruptions: worse with severity, repeatable, of the same shape, each doing what its name says."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from prompts.errors import ConfigError
from training.corruptions import CORRUPTIONS, SEVERITIES, CorruptedSource, corrupt
from training.data import Example
from training.pico.tasks import make_source

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Listed:
    """A source from a list."""

    examples: list[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> Example:
        return self.examples[index]


@pytest.fixture(scope="module")
def clean() -> Image.Image:
    picture = make_source("count", "val", 4, 0)[1].picture
    assert picture is not None
    return picture


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.sqrt(((values(one) - values(other)) ** 2).mean()))


def roughness(picture: Image.Image) -> float:
    """How much neighbours differ."""
    return float(np.abs(np.diff(values(picture), axis=1)).mean())


def test_the_kinds_there_are() -> None:
    assert set(CORRUPTIONS) == {
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("gaussian_blur", "defocus_blur", "motion_blur"),
        *("fog", "snow", "brightness", "contrast", "jpeg"),
    }


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_takes_the_picture_further_from_the_clean_one(name: str, clean: Image.Image) -> None:
    for seed in range(3):
        far = [distance(clean, corrupt(clean, name, severity, seed)) for severity in SEVERITIES]
        assert 1 < far[0] < 0.9 * far[1] < 0.81 * far[2], far


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_picture(name: str, clean: Image.Image) -> None:
    before = clean.tobytes()
    first, again, other = (corrupt(clean, name, 2, seed) for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes()
    steady = {"gaussian_blur", "defocus_blur", "brightness", "contrast", "jpeg"}
    assert (first.tobytes() == other.tobytes()) == (name in steady)
    assert clean.tobytes() == before, "the clean picture was changed"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_size_mode_and_alpha_stay(name: str, mode: str, clean: Image.Image) -> None:
    picture = clean.resize((61, 40)).convert(mode)
    if "A" in picture.getbands():
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    corrupted = corrupt(picture, name, 3, 0)
    assert (corrupted.size, corrupted.mode) == (picture.size, mode)
    assert corrupted.tobytes() != picture.tobytes()
    if "A" in picture.getbands():
        assert corrupted.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


def test_noise_roughens_and_blur_smooths(clean: Image.Image) -> None:
    plain = roughness(clean)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise"):
        assert roughness(corrupt(clean, name, 1, 0)) > 2 * plain, name
    for name in ("gaussian_blur", "defocus_blur"):
        assert roughness(corrupt(clean, name, 3, 0)) < 0.75 * plain, name


def test_blur_and_jpeg_keep_the_light_and_snow_adds_some(clean: Image.Image) -> None:
    light = values(clean).mean()
    for name in ("gaussian_blur", "defocus_blur", "motion_blur", "contrast", "jpeg"):
        assert values(corrupt(clean, name, 3, 0)).mean() == pytest.approx(light, abs=4), name
    for name in ("snow", "brightness"):
        assert values(corrupt(clean, name, 2, 0)).mean() > light + 8, name


def test_a_point_spreads_over_a_disc_or_along_a_line() -> None:
    """Defocus: as far up as across, area π r². Motion: as long as it says, and thin."""
    point = np.zeros((224, 224, 3), np.uint8)
    point[112, 112] = 255
    disc = values(corrupt(Image.fromarray(point), "defocus_blur", 1, 0))[..., 0] > 0
    assert disc.sum() == 13  # whole steps within a radius of 2
    assert {axis.nonzero()[0].tolist()[0] for axis in (disc.any(0), disc.any(1))} == {110}
    for seed in range(4):
        line = values(corrupt(Image.fromarray(point), "motion_blur", 1, seed))[..., 0] > 0
        rows, columns = line.nonzero()
        assert 6 <= np.hypot(np.ptp(rows), np.ptp(columns)) <= 8.5
        assert line.sum() <= 12


def test_shot_noise_is_stronger_in_the_light() -> None:
    dark, light = (Image.new("RGB", (64, 64), (level,) * 3) for level in (20, 140))
    spread = [values(corrupt(picture, "shot_noise", 1, 0)).std() for picture in (dark, light)]
    # A Poisson draw of mean m has variance m: the ratio is sqrt(140/20) = 2.65.
    assert spread[1] / spread[0] == pytest.approx(2.65, rel=0.1)


def test_impulse_noise_leaves_the_others_untouched(clean: Image.Image) -> None:
    before, after = values(clean), values(corrupt(clean, "impulse_noise", 2, 0))
    changed = before != after
    assert changed.mean() == pytest.approx(0.09, abs=0.02)
    assert set(np.unique(after[changed])) == {0.0, 255.0}
    assert (after[changed] == 0).mean() == pytest.approx(0.5, abs=0.1)


def test_fog_covers_unevenly_and_takes_colours_away() -> None:
    plain = values(corrupt(Image.new("RGB", (224, 224), (200, 40, 40)), "fog", 2, 0))
    redness = plain[..., 0] - plain[..., 1]
    assert redness.max() < 0.75 * 160
    assert redness.max() - redness.min() > 0.2 * 160


def test_strength_grows_with_the_picture(clean: Image.Image) -> None:
    """A picture twice as large looks as blurred: shrunk again, it is nearly the small one's blur."""
    large = clean.resize((448, 448), Image.Resampling.BICUBIC)
    for name in ("gaussian_blur", "defocus_blur"):
        small = corrupt(clean, name, 3, 0)
        shrunk = corrupt(large, name, 3, 0).resize(clean.size, Image.Resampling.BOX)
        assert distance(shrunk, small) < 0.25 * distance(clean, small), name


def test_unknown_names_and_severities_are_refused_together(clean: Image.Image) -> None:
    with pytest.raises(ConfigError) as caught:
        corrupt(clean, "earthquake", 4, 0)
    assert len(caught.value.faults) == 2
    assert "corruption: expected one of gaussian_noise" in caught.value.faults[0]
    assert "severity: expected 1, 2 or 3, came 4" in caught.value.faults[1]
    with pytest.raises(ConfigError, match="severity"):
        CorruptedSource(Listed([]), "fog", 0, 0)


def test_a_source_is_corrupted_example_by_example(clean: Image.Image) -> None:
    seen = Example(clean, "What?", "this", ("this", "that"))
    corrupted = CorruptedSource(Listed([seen, seen, Example(None, "Who?", "me")]), "snow", 2, 5)
    first, second, text = (corrupted[index] for index in range(len(corrupted)))
    assert (first.question, first.answer, first.choices) == ("What?", "this", ("this", "that"))
    assert first.picture is not None
    assert second.picture is not None
    assert (
        first.picture.tobytes()
        == corrupted[0].picture.tobytes()
        == corrupt(clean, "snow", 2, (5, 0)).tobytes()
    )
    assert first.picture.tobytes() != second.picture.tobytes(), "every picture has the same flakes"
    assert text == Example(None, "Who?", "me")
