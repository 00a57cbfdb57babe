"""A source as a config names it, and what can be said of it in a line."""

from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter

from training.data import DataConfig, ExampleSource, iterate_source, make_source

__all__ = ["answers", "is_upright", "open_data", "save_sideways"]

_ORIENTATION = 0x0112
_TURNED = 6
"""The camera was held upright: turn the picture a quarter clockwise to see it so."""


def open_data(kind: str, *, max_broken_share: float = 0.0, **fields: Any) -> ExampleSource:
    """The source of the entry {kind, …}, read as from a config."""
    entry = TypeAdapter(DataConfig).validate_python({"kind": kind, **fields})
    return make_source(entry, max_broken_share=max_broken_share)


def answers(source: ExampleSource) -> list[str]:
    """Each example's answer, in order."""
    return [example.answer for example in iterate_source(source)]


def save_sideways(path: Path) -> None:
    """A grey picture, 8 wide and 12 high once its EXIF tag is obeyed, white above and black below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    upright = Image.new("L", (8, 12), 0)
    upright.paste(255, (0, 0, 8, 6))
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(path, format="jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "png", exif=exif)


def is_upright(picture: Image.Image | None) -> bool:
    """Whether this is what `save_sideways` wrote, upright and RGB."""
    assert picture is not None
    top, bottom = picture.getpixel((4, 2)), picture.getpixel((4, 9))
    return (picture.mode, picture.size, top, bottom) == ("RGB", (8, 12), (255,) * 3, (0,) * 3)
