"""Decodes pictures: from bytes nobody vouches for to upright 8-bit RGB."""

import io
import struct
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from prompts.errors import PictureError
from prompts.faults import fault

__all__ = ["BROKEN", "FORMATS", "MAX_PIXELS", "decode_picture", "depth_fault", "to_rgb"]

MAX_PIXELS = 64_000_000
"""Pixels a picture may have, checked before it is decoded."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are decoded; of a moving picture its first frame counts."""

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, struct.error)
"""What Pillow's decoders raise on broken bytes; running out of memory is not among it."""

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Pillow's own limit; the warning is raised only where warnings are errors."""

_WHITE = (255, 255, 255, 255)


def decode_picture(data: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture as upright RGB.

    Raises:
        PictureError: no picture, an unknown format, a broken or cut file, more than `max_pixels` pixels.
    """
    source = data if isinstance(data, Path) else io.BytesIO(data)
    expected = f"a picture ({', '.join(FORMATS)})"
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_size(image, max_pixels)
            return to_rgb(image)
    except _BOMB as error:
        raise PictureError(_too_large(max_pixels, "far more")) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            fault("picture", expected=expected, came="other bytes", cure="send one")
        ) from error
    except FileNotFoundError as error:
        raise PictureError(
            fault("picture", expected="a file", came="none", cure="correct the path")
        ) from error
    except BROKEN as error:
        came = f"a broken one ({error})"
        raise PictureError(fault("picture", expected=expected, came=came, cure="send it whole")) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an upright 8-bit RGB picture: turned by its EXIF tag, transparency on white.

    Raises:
        PictureError: more than 8 bits per value.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB" and not upright.has_transparency_data:
        return upright
    if found := depth_fault("picture", upright.mode):
        raise PictureError(found)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")
    return upright.convert("RGB")


def depth_fault(field: str, mode: str) -> str | None:
    """What to say of a picture whose Pillow `mode` has more than 8 bits per value, None of any other.

    How such values become 8 bits is nobody's rule (vLLM cuts them off at 255), so a trainer and a server
    would see different pictures.
    """
    if mode not in _DEEP_MODES:
        return None
    came = "32-bit floats" if mode == "F" else "16 or 32 bits"
    return fault(field, expected="8 bits per value", came=came, cure="scale it to 8 bits yourself")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height <= max_pixels:
        return
    came = f"{image.width} x {image.height} = {image.width * image.height} pixels"
    raise PictureError(_too_large(max_pixels, came))


def _too_large(max_pixels: int, came: str) -> str:
    return fault("picture", expected=f"at most {max_pixels} pixels", came=came, cure="make it smaller")
