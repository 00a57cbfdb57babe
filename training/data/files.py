"""What the readers of layouts share: pictures and lines of files, and how their faults read."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from prompts.errors import ConfigError, PictureError
from prompts.faults import fault, validation_faults
from prompts.picture import decode_picture
from training.data.items import Item, ItemSource, spread

__all__ = [
    "FAULTS_GATHERED",
    "PICTURE_SUFFIXES",
    "file_source",
    "missing_faults",
    "pictures_in",
    "read_file",
    "read_lines",
    "read_picture",
    "refuse",
]

PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
FAULTS_GATHERED = 20

Record = TypeVar("Record", bound=BaseModel)


def read_picture(path: Path) -> Image.Image:
    """The picture, upright RGB.

    Raises:
        PictureError: with the file's name: of a hundred thousand, the broken one must be found.
    """
    try:
        return decode_picture(path)
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error


def pictures_in(folder: Path) -> list[Path]:
    """The picture files right in a folder, sorted."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    )


def refuse(faults: list[str]) -> None:
    """Raises ConfigError with the faults, the first 20 of them; does nothing where there are none."""
    if faults:
        raise ConfigError("data", faults[:FAULTS_GATHERED])


def missing_faults(field: str, paths: Iterable[Path], *, expected: str) -> list[str]:
    """A fault for each path that is no file, up to 20; `expected` names the layout."""
    missing = (path for path in dict.fromkeys(paths) if not path.is_file())
    cure = f"correct `{field}`, or put the file there"
    return [
        fault(field, expected=expected, came=f"no {path}", cure=cure)
        for path in islice(missing, FAULTS_GATHERED)
    ]


def file_source(
    items: Sequence[Item[Path]],
    limit: int | None,
    *,
    field: str = "root",
    expected: str,
    faults: Sequence[str] = (),
) -> ItemSource[Path]:
    """A source of `limit` items, spread over their answers, after a look whether their pictures are there.

    Args:
        field: the config's, below which the pictures are.
        expected: the layout the pictures belong to.
        faults: what is wrong already.

    Raises:
        ConfigError: `faults`, and a fault for each picture that is missing.
    """
    chosen = spread(items, limit)
    pictures = (item.place for item in chosen if item.place is not None)
    refuse([*faults, *missing_faults(field, pictures, expected=expected)])
    return ItemSource(chosen, read_picture)


def read_file(field: str, file: Path, *, expected: str) -> bytes:
    """What a file holds; `expected` names the layout it belongs to.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        came = f"no readable {file} ({error.strerror})"
        problem = fault(field, expected=expected, came=came, cure=f"correct `{field}`")
        raise ConfigError("data", [problem]) from error


def read_lines(file: Path, kind: type[Record], *, expected: str) -> tuple[list[Record], list[str]]:
    """The records of a file of JSON lines below `root`, and what is wrong with the broken ones.

    Empty lines are passed over. `expected` names the layout the file belongs to.

    Raises:
        ConfigError: the file cannot be read.
    """
    records: list[Record] = []
    faults: list[str] = []
    for number, line in enumerate(read_file("root", file, expected=expected).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            faults += validation_faults(error, source=f"{file.name} line {number}")
    if not records and not faults:
        faults = [fault("root", expected=expected, came=f"an empty {file}", cure="name another folder")]
    return records, faults
