"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as they are published: binary files, or pickles for Python.

A picture is 3072 bytes: 1024 of red, then green, then blue, each row by row from the top. In the binary files
the label comes before it (CIFAR-100: the coarse one, then the fine one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prompts.faults import fault, shown
from training.data.batch_pickle import read_batch
from training.data.config import Cifar10Data, CifarData
from training.data.files import refuse
from training.data.items import ItemSource, array_source

__all__ = ["open_cifar"]

_SIDE = 32
_VALUES = 3 * _SIDE * _SIDE

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class _Layout:
    """Where the pictures and labels of one split are."""

    batches: tuple[str, ...]
    """Its files; `.bin` is added in the binary version."""
    classes: int
    meta_file: str
    """The pickle with the class names, under `names_key`."""
    names_key: str
    labels_key: str
    """Of the labels in a pickled batch."""
    text_file: str
    """The class names in the binary version, one a line."""
    header: int
    """Bytes before a picture in the binary version."""
    label_byte: int
    """Which of them is the label."""


@dataclass(frozen=True)
class _Batch:
    """Rows of one file: `pictures` (n, 3072) uint8, `labels` n class numbers."""

    pictures: NDArray[np.uint8]
    labels: Sequence[int]


def open_cifar(entry: CifarData) -> ItemSource[int]:
    """The pictures of one split, interleaved by class; binary files are taken where there are both.

    Raises:
        ConfigError: files are missing, cut, of another kind, or a pickle asks for code to be run.
    """
    layout = _layout(entry)
    is_binary = any((entry.root / f"{name}.bin").is_file() for name in layout.batches)
    files = [entry.root / (f"{name}.bin" if is_binary else name) for name in layout.batches]
    names_file = entry.root / (layout.text_file if is_binary else layout.meta_file)
    refuse(_missing([*files, names_file], layout))
    faults: list[str] = []
    names = _names(names_file, layout, faults, is_binary=is_binary)
    batches = [_batch(file, layout, faults, is_binary=is_binary) for file in files]
    refuse(faults)
    rows = np.concatenate([batch.pictures for batch in batches])
    return array_source(
        lambda number: rows[number].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0),
        [label for batch in batches for label in batch.labels],
        names,
        question=entry.question,
        limit=entry.limit,
    )


def _layout(entry: CifarData) -> _Layout:
    if isinstance(entry, Cifar10Data):
        train = tuple(f"data_batch_{number}" for number in range(1, 6))
        return _Layout(
            batches=train if entry.split == "train" else ("test_batch",),
            classes=10,
            meta_file="batches.meta",
            names_key="label_names",
            labels_key="labels",
            text_file="batches.meta.txt",
            header=1,
            label_byte=0,
        )
    is_fine = entry.labels == "fine"
    return _Layout(
        batches=(entry.split,),
        classes=100 if is_fine else 20,
        meta_file="meta",
        names_key=f"{entry.labels}_label_names",
        labels_key=f"{entry.labels}_labels",
        text_file=f"{entry.labels}_label_names.txt",
        header=2,
        label_byte=int(is_fine),
    )


def _missing(files: Sequence[Path], layout: _Layout) -> list[str]:
    """One fault that names all missing files, and both layouts."""
    missing = [str(file) for file in files if not file.is_file()]
    if not missing:
        return []
    names = ", ".join(layout.batches)
    binary = ", ".join(f"{name}.bin" for name in layout.batches)
    expected = f"a folder with {names} and {layout.meta_file} (or {binary} and {layout.text_file})"
    cure = "name the folder that was unpacked, or unpack it again"
    return [fault("root", expected=expected, came=f"no {', '.join(missing)}", cure=cure)]


def _names(file: Path, layout: _Layout, faults: list[str], *, is_binary: bool) -> list[str]:
    """The class names, underscores read as spaces; what is wrong is added to `faults`."""
    try:
        if is_binary:
            given: object = [line for line in file.read_bytes().split(b"\n") if line.strip()]
        else:
            given = read_batch(file).get(layout.names_key)
        listed = _list_of(given, bytes)
        distinct = len(set(listed))
        if distinct == len(listed) == layout.classes:
            names = [one.decode().strip().replace("_", " ") for one in listed]
            distinct = len(set(names))
            if distinct == layout.classes:
                return names
        came = f"{distinct} in {file}"
    except (OSError, ValueError) as error:
        came = f"{file}: {error}"
    faults.append(_fault(f"the names of {layout.classes} classes", came))
    return []


def _batch(file: Path, layout: _Layout, faults: list[str], *, is_binary: bool) -> _Batch:
    """The rows of a file; what is wrong is added to `faults`."""
    try:
        batch = _binary_batch(file, layout) if is_binary else _pickled_batch(file, layout)
    except (OSError, ValueError) as error:
        faults.append(_fault(f"a batch of {_SIDE} x {_SIDE} pictures with labels", f"{file}: {error}"))
        return _Batch(np.empty((0, _VALUES), np.uint8), ())
    foreign = [label for label in batch.labels if not 0 <= label < layout.classes]
    if foreign:
        came = f"{file}: {len(foreign)} others, the first of them {shown(foreign[0])}"
        faults.append(_fault(f"labels from 0 to {layout.classes - 1}", came))
    return batch


def _binary_batch(file: Path, layout: _Layout) -> _Batch:
    values = np.fromfile(file, dtype=np.uint8)
    length = layout.header + _VALUES
    if not len(values) or len(values) % length:
        raise ValueError(f"{len(values)} bytes, no multiple of {length}")
    rows = values.reshape(-1, length)
    return _Batch(rows[:, layout.header :], rows[:, layout.label_byte].tolist())


def _pickled_batch(file: Path, layout: _Layout) -> _Batch:
    found = read_batch(file)
    pictures, labels = found.get("data"), _list_of(found.get(layout.labels_key), int)
    if not isinstance(pictures, np.ndarray) or pictures.shape != (len(labels), _VALUES) or not len(labels):
        shape = getattr(pictures, "shape", None)
        raise ValueError(f"data of shape {shape} for {len(labels)} {layout.labels_key}")
    return _Batch(pictures, labels)


def _list_of(given: object, kind: type[Kind]) -> list[Kind]:
    """A list of that type; a fault names the first that is of another, and never shows the whole list."""
    if not isinstance(given, list):
        raise ValueError(f"no list of {kind.__name__}, but {type(given).__name__}")
    foreign = [one for one in given if type(one) is not kind]
    if foreign:
        raise ValueError(f"no list of {kind.__name__}, but one with {shown(foreign[0])}")
    return given


def _fault(expected: str, came: str) -> str:
    return fault("root", expected=expected, came=came, cure="unpack the published archive again")
