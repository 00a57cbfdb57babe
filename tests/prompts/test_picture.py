"""Pictures from outside: decoded to upright RGB, or refused with the reason."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prompts.errors import PictureError
from prompts.picture import FORMATS, decode_picture, to_rgb

ORIENTATION = 0x0112
QUARTER_TURN = 6


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_decoded(kind: str) -> None:
    picture = decode_picture(encoded(Image.new("RGB", (7, 5), (200, 30, 30)), kind))
    assert (picture.mode, picture.size) == ("RGB", (7, 5))
    assert np.abs(np.array(picture)[2, 3].astype(int) - (200, 30, 30)).max() <= 8


def test_a_picture_is_turned_upright_once() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    turned = decode_picture(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert turned.size == (20, 40)
    assert to_rgb(turned).size == (20, 40)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_stands_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode)
    assert decode_picture(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_colour_stands_on_white() -> None:
    black = encoded(Image.new("RGB", (2, 2)), transparency=(0, 0, 0))
    assert decode_picture(black).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_refused() -> None:
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    with pytest.raises(PictureError, match="expected 8 bits per value, came 16 or 32 bits"):
        decode_picture(encoded(Image.fromarray(levels)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_floats_are_refused() -> None:
    with pytest.raises(PictureError, match="came 32-bit floats"):
        to_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.4", b"<svg/>", b"%!PS-Adobe"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match=r"expected a picture \(BMP, .*came other bytes") as refused:
        decode_picture(data)
    assert "0x" not in str(refused.value)  # no object's address reaches a client


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="expected a file, came none"):
        decode_picture(tmp_path / "none.png")


def test_a_file_is_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (3, 4)).save(tmp_path / "one.png")
    assert decode_picture(tmp_path / "one.png").size == (3, 4)


def test_a_huge_picture_is_refused_before_decoding() -> None:
    with pytest.raises(PictureError, match="at most 100 pixels, came 11 x 10 = 110 pixels"):
        decode_picture(encoded(Image.new("RGB", (11, 10))), max_pixels=100)
    assert decode_picture(encoded(Image.new("RGB", (10, 10))), max_pixels=100).size == (10, 10)


def test_a_decompression_bomb_is_refused() -> None:
    bomb = bytearray(encoded(Image.new("RGB", (1, 1)), "BMP"))
    bomb[18:26] = (30_000).to_bytes(4, "little") * 2  # width and height
    with pytest.raises(PictureError, match="came far more"):
        decode_picture(bytes(bomb))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of broken metadata and reads on
@pytest.mark.parametrize("kind", FORMATS)
def test_broken_bytes_never_crash_the_decoder(kind: str) -> None:
    """300 pictures a format, cut or with bytes changed: a picture, or a PictureError."""
    pixels = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), kind)
    dice = random.Random(17)
    refused = 0
    for turn in range(300):
        broken = bytearray(whole[: dice.randrange(len(whole))] if turn % 3 == 0 else whole)
        for _ in range(min(dice.randrange(1, 6), len(broken))):
            broken[dice.randrange(min(len(broken), 200))] = dice.randrange(256)
        try:
            assert decode_picture(bytes(broken), max_pixels=10_000).mode == "RGB"
        except PictureError:
            refused += 1
    assert refused >= 50
