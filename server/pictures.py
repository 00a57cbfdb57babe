"""The pictures of a request, looked at before the engine sees them.

`require_readable` reads headers alone (microseconds a picture): the format, and size and shape against caps
before anything is decoded. `find_broken` decodes in full; it is asked only when vLLM refused a request, to
say which picture was at fault and by what name, where vLLM would show an object's repr. Pictures behind URLs
are fetched before (`server.outside`) and come here as bytes.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from io import BytesIO
from typing import Any

from PIL import Image

from prompts.errors import InputError, PictureError
from prompts.faults import fault, shown
from prompts.frame import MAX_ASPECT
from prompts.picture import BROKEN, FORMATS, decode_picture, depth_fault

__all__ = ["Picture", "find_broken", "find_fetch_fault", "find_pictures", "require_readable"]

_CONTAINERS = ("messages", "input", "content", "output")
_SCHEMES = ("http:", "https:")
_FETCHERS = ("aiohttp", "PIL")
"""Packages whose errors, where a request names files, tell of the pictures."""
_MAX_DEPTH = 64
"""Levels of lists and objects that are searched: no API nests pictures deeper than ten."""


def _nowhere(url: str) -> None:
    """A picture that stands in no body."""


@dataclass(frozen=True)
class Picture:
    """One picture of a request. `field`: its place in the body; `url`: as sent, None for a cached one.

    `put`: writes another address in its place.
    """

    field: str
    url: str | None
    put: Callable[[str], None] = dataclass_field(default=_nowhere, compare=False, repr=False)

    @property
    def is_distant(self) -> bool:
        """Whether the bytes are still to be fetched over the network."""
        return self.url is not None and self.url[:6].lower().startswith(_SCHEMES)

    @property
    def is_inline(self) -> bool:
        """Whether the bytes came with the request."""
        return self.url is not None and self.url[:5].lower() == "data:"


def find_pictures(body: Mapping[str, Any]) -> list[Picture]:
    """Every picture of a body in any of the APIs' shapes, in the order they stand.

    Raises:
        InputError: it is nested deeper than any API's bodies are.
    """
    return list(_walk(body, "", 0))


def require_readable(pictures: list[Picture], *, max_pixels: int, local_files: bool) -> None:
    """Refuse pictures that can be seen to be none, or too large, without decoding them.

    `local_files`: the operator lets requests name files (vLLM's --allowed-local-media-path).

    Raises:
        PictureError: names the first picture at fault.
    """
    for picture in pictures:
        if picture.is_inline:
            _require_header(picture, max_pixels)
        elif picture.url is not None:
            _require_scheme(picture, local_files)


def find_broken(pictures: list[Picture], *, max_pixels: int) -> PictureError | None:
    """Decode the inline pictures; return the error of the first that does not."""
    for picture in pictures:
        if not picture.is_inline:
            continue
        try:
            decode_picture(_inline_bytes(picture), max_pixels=max_pixels)
        except PictureError as error:
            return PictureError(f"{picture.field}: {error}")
    return None


def find_fetch_fault(pictures: list[Picture], error: Exception) -> PictureError | None:
    """What to say when reading or decoding a picture in a file raised `error`; None where it did not.

    The error's own words stay out: they tell what this machine has.
    """
    fields = [picture.field for picture in pictures if picture.url is not None and not picture.is_inline]
    is_fetching = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _FETCHERS
    if not fields or not is_fetching:
        return None
    return PictureError(
        fault(
            ", ".join(fields),
            expected="the address of a picture",
            came="one that could not be read or decoded",
            cure="correct it, or send the picture as data:image/png;base64,…",
        )
    )


def _walk(value: object, field: str, depth: int) -> Iterator[Picture]:
    if depth > _MAX_DEPTH:
        place, expected = field.partition("[")[0], f"at most {_MAX_DEPTH} levels of lists and objects"
        raise InputError(fault(place, expected=expected, came="more", cure="send the messages flat"))
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _walk(one, f"{field}[{index}]", depth + 1)
    elif isinstance(value, Mapping):
        yield from _walk_part(value, field, depth)


def _walk_part(part: Mapping[str, Any], field: str, depth: int) -> Iterator[Picture]:
    """Whatever could be read as a picture: which of the keys counts is each route's own affair."""
    if "image_url" in part:
        given = part["image_url"]
        url = given.get("url") if isinstance(given, Mapping) else given
        place, key = (given, "url") if isinstance(given, Mapping) else (part, "image_url")
        yield Picture(f"{field}.image_url", url if isinstance(url, str) else None, _put(place, key))
    source = part.get("source")
    if part.get("type") == "image" and isinstance(source, Mapping):
        yield Picture(f"{field}.source", _anthropic_url(source), _put(source, "url"))
    for name in _CONTAINERS:
        if name in part:
            yield from _walk(part[name], f"{field}.{name}" if field else name, depth + 1)


def _put(place: Any, key: str) -> Callable[[str], None]:
    """Writes into one place of the body, which was parsed from JSON: its objects are dicts."""
    return partial(place.__setitem__, key)


def _anthropic_url(source: Mapping[str, Any]) -> str | None:
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    url = source.get("url")
    return url if isinstance(url, str) else None


def _require_header(picture: Picture, max_pixels: int) -> None:
    data = _inline_bytes(picture)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            (width, height), mode = image.size, image.mode
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(picture, max_pixels, "more") from error
    except BROKEN as error:
        raise PictureError(
            fault(
                picture.field,
                expected=f"a picture ({', '.join(FORMATS)})",
                came=f"{len(data)} bytes that are none",
                cure="send the file's bytes in base64",
            )
        ) from error
    if found := depth_fault(picture.field, mode):
        raise PictureError(found)
    if width * height > max_pixels:
        raise _too_large(picture, max_pixels, f"{width} × {height}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        # A model's own resize of the shorter side would make the longer one hundreds of times as long.
        expected = f"sides within {MAX_ASPECT}:1 of each other"
        raise PictureError(
            fault(picture.field, expected=expected, came=f"{width} × {height}", cure="crop it")
        )


def _too_large(picture: Picture, max_pixels: int, came: str) -> PictureError:
    return PictureError(
        fault(
            picture.field, expected=f"at most {max_pixels} pixels", came=came, cure="send a smaller picture"
        )
    )


def _require_scheme(picture: Picture, local_files: bool) -> None:
    url = str(picture.url)
    if local_files and url.lower().startswith("file:"):
        return
    raise PictureError(
        fault(
            picture.field,
            expected="a data: address",
            came=shown(url[:16]),
            cure="send the picture as data:image/png;base64,…",
        )
    )


def _inline_bytes(picture: Picture) -> bytes:
    head, comma, payload = str(picture.url).partition(",")
    if not comma or not head.endswith(";base64"):
        raise PictureError(
            fault(
                picture.field,
                expected="data:image/…;base64,…",
                came=shown(head[:48]),
                cure="encode the picture in base64",
            )
        )
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(
            fault(picture.field, expected="base64", came="other characters", cure="encode the file's bytes")
        ) from error
