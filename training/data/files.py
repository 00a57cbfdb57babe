"""What the readers of layouts share: pictures and lines of files, and how their faults read."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from prompts.errors import ConfigError, PictureError
from prompts.faults import fault, shown, validation_faults
from prompts.picture import decode_picture
from training.data.items import Item, ItemSource, spread

__all__ = [
    "FAULTS_GATHERED",
    "PICTURE_SUFFIXES",
    "file_source",
    "inside",
    "missing_faults",
    "pictures_in",
    "place_items",
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


def inside(folder: Path, name: str) -> Path | None:
    """The file that a data file calls `name`, below `folder`; None where the name leads out of it.

    An absolute name leads out, and so does one with too many `..`. Names alone are looked at: a link in the
    folder was put there by whoever made the folder, and is followed wherever it leads.
    """
    plain = os.path.normpath(name)  # so that no `..` is left to climb out of where a link leads
    leaves = os.path.isabs(plain) or plain.partition(os.sep)[0] == os.pardir
    return None if leaves else folder / plain


def place_items(
    items: Iterable[Item[str]], folder: Path, *, field: str, expected: str
) -> tuple[list[Item[Path]], list[str]]:
    """The items whose pictures are there, and a fault for each of the others.

    An item is left out where the name of its picture leads out of the folder, or to no file. `field`: the
    config's, that names the folder; `expected`: the layout the pictures belong to.
    """
    placed: list[Item[Path]] = []
    faults: list[str] = []
    wrong: dict[str, str | None] = {}
    for item in items:
        if item.place is None:
            placed.append(Item(None, item.question, item.answer, item.choices))
            continue
        if item.place not in wrong:
            wrong[item.place] = _name_fault(item.place, folder, field, expected)
        if (problem := wrong[item.place]) is None:
            placed.append(Item(inside(folder, item.place), item.question, item.answer, item.choices))
        else:
            faults.append(problem)
    return placed, faults


def _name_fault(name: str, folder: Path, field: str, expected: str) -> str | None:
    """What is wrong with a picture's name, or None."""
    path = inside(folder, name)
    if path is None:
        came, cure = f"{shown(name)}, which leads out of it", "name it from that folder on"
        return fault(field, expected=f"pictures in {folder}", came=came, cure=cure)
    return next(iter(missing_faults(field, [path], expected=expected)), None)


def file_source(
    items: Sequence[Item[str]],
    limit: int | None,
    *,
    folder: Path,
    field: str = "root",
    expected: str,
    faults: Sequence[str] = (),
) -> ItemSource[Path]:
    """A source of `limit` items, spread over their answers, without those whose pictures are not there.

    Args:
        folder: that the items' names of pictures start from, and never leave.
        field: the config's, below which the pictures are.
        expected: the layout the pictures belong to.
        faults: of the records that are broken already.

    Raises:
        ConfigError: no item is left; with the faults.
    """
    chosen, wrong = place_items(spread(items, limit), folder, field=field, expected=expected)
    broken = [*faults, *wrong]
    if not chosen:
        refuse(list(dict.fromkeys(broken)))
    return ItemSource(chosen, read_picture, broken)


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
    """The records of a file of JSON lines below `root`, and a fault for each broken one.

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
            faults.append("; ".join(validation_faults(error, source=f"{file.name} line {number}")))
    if not records and not faults:
        faults = [fault("root", expected=expected, came=f"an empty {file}", cure="name another folder")]
    return records, faults
