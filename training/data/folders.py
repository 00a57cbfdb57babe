"""Pictures in one folder per class, called by the class's name or (ImageNette) by its WordNet id."""

from collections.abc import Mapping
from pathlib import Path

from prompts.faults import fault
from training.data.config import ImageFolderData, ImageNetteData
from training.data.files import PICTURE_SUFFIXES, pictures_in, read_picture, refuse
from training.data.items import Item, ItemSource, spread

__all__ = ["IMAGENETTE_NAMES", "open_image_folder", "open_imagenette"]

IMAGENETTE_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""WordNet id -> name of ImageNette's ten classes."""


def open_image_folder(entry: ImageFolderData) -> ItemSource[Path]:
    """Pictures of ROOT/<class>/, interleaved by class so that any prefix is balanced.

    Raises:
        ConfigError: no such folder, no pictures in it, or two classes of one name.
    """
    if not entry.root.is_dir():
        expected, cure = "a folder with one folder per class", "correct the path"
        refuse([fault("root", expected=expected, came=str(entry.root), cure=cure)])
    by_class = _by_class(entry.root)
    if not by_class:
        cure = f"put {', '.join(sorted(PICTURE_SUFFIXES))} files there"
        expected, came = "pictures at <class>/<picture>", f"none in {entry.root}"
        refuse([fault("root", expected=expected, came=came, cure=cure)])
    return _source(by_class, entry.question, entry.limit)


def open_imagenette(entry: ImageNetteData) -> ItemSource[Path]:
    """Pictures of ROOT/<split>/<WordNet id>/, named by `IMAGENETTE_NAMES`, interleaved by class.

    Raises:
        ConfigError: naming each class that has no pictures.
    """
    by_class, faults = {}, []
    for wordnet_id, name in IMAGENETTE_NAMES.items():
        folder = entry.root / entry.split / wordnet_id
        by_class[name] = pictures_in(folder) if folder.is_dir() else []
        if not by_class[name]:
            expected = f"pictures of class {name} at {entry.split}/{wordnet_id}/"
            came, cure = f"none in {folder}", "correct `root`, or unpack the set again"
            faults.append(fault("root", expected=expected, came=came, cure=cure))
    refuse(faults)
    return _source(by_class, entry.question, entry.limit)


def _source(by_class: Mapping[str, list[Path]], question: str, limit: int | None) -> ItemSource[Path]:
    choices = tuple(by_class)
    items = [Item(path, question, name, choices) for name, paths in by_class.items() for path in paths]
    return ItemSource(spread(items, limit), read_picture)


def _by_class(root: Path) -> dict[str, list[Path]]:
    """Class name -> its pictures, both sorted; hidden folders and those without pictures left out."""
    by_class: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != "."):
        name, pictures = folder.name.replace("_", " "), pictures_in(folder)
        if name in by_class:
            came, cure = f"two called {name!r}", "rename or merge one (an underscore is read as a space)"
            refuse([fault("root", expected="distinct classes", came=came, cure=cure)])
        if pictures:
            by_class[name] = pictures
    return by_class
