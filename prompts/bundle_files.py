"""Reads the files of a bundle's folder and gathers their faults; see `prompts.bundle` for the whole."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor

from prompts.canary import CANARY_FILE, MAX_CANARY_BYTES, Canary, read_canary
from prompts.contents import DTYPES, Declared, shape_faults, value_faults
from prompts.faults import fault, shown, validation_faults
from prompts.jsonfile import parse_json
from prompts.manifest import FrameSpec, Manifest, PrefixSpec, TextSpec, VisionSpec, lacking_part
from prompts.tensorfile import TensorEntry, TensorFileError, read_bytes, read_header

__all__ = [
    "MANIFEST_FILE",
    "TENSORS_FILE",
    "BundleFiles",
    "link_leaves",
    "read_bundle_files",
    "read_manifest",
]

MANIFEST_FILE = "bundle.json"
TENSORS_FILE = "tensors.safetensors"

MAX_MANIFEST_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS_BYTES = 8 << 30

_FORMAT = 1
_PARTS: dict[str, type[FrameSpec | TextSpec | PrefixSpec | VisionSpec]] = {
    "frame": FrameSpec,
    "text": TextSpec,
    "prefix": PrefixSpec,
    "vision": VisionSpec,
}


@dataclass
class BundleFiles:
    """What a folder holds, good only without `faults`.

    `manifest` is None where it is faulty; `canary` where it is, and where there is none.
    """

    manifest: Manifest | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    canary: Canary | None = None
    faults: list[str] = field(default_factory=list)


def read_bundle_files(folder: Path) -> BundleFiles:
    """Return what the files say, and every fault found."""
    if not folder.is_dir():
        expected = f"a folder with {MANIFEST_FILE} and {TENSORS_FILE}"
        came = "a file" if folder.exists() else "nothing at this path"
        return BundleFiles(faults=[fault("folder", expected=expected, came=came, cure="correct the path")])
    files = BundleFiles(faults=_link_faults(folder))
    declared = Declared(unsure=frozenset({*_PARTS, "projector", "lm_head"}))

    def take_manifest(file: BinaryIO) -> None:
        nonlocal declared
        files.manifest, declared, found = _read_manifest(file.read(MAX_MANIFEST_BYTES))
        files.faults += found

    def take_tensors(file: BinaryIO) -> None:
        files.faults += _read_tensors(file, declared, files.tensors)

    def take_canary(file: BinaryIO) -> None:
        files.canary = read_canary(file.read(MAX_CANARY_BYTES), files.faults)

    files.faults += _with_file(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES, take_manifest)
    files.faults += _with_file(folder, TENSORS_FILE, MAX_TENSORS_BYTES, take_tensors)
    if os.path.lexists(folder / CANARY_FILE):
        files.faults += _with_file(folder, CANARY_FILE, MAX_CANARY_BYTES, take_canary)
    return files


def read_manifest(folder: Path) -> Manifest | None:
    """Return a bundle's manifest alone, None where it is faulty; its tensors are not looked at."""
    found: list[Manifest | None] = []
    _with_file(
        folder,
        MANIFEST_FILE,
        MAX_MANIFEST_BYTES,
        lambda file: found.append(_read_manifest(file.read(MAX_MANIFEST_BYTES))[0]),
    )
    return found[0] if found else None


def link_leaves(path: Path, home: Path) -> bool:
    """Return whether `path` is a link to somewhere outside the folder `home`, or to nowhere (a circle)."""
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(home.resolve())
    except RuntimeError:  # Python 3.11 and 3.12 raise this for links in a circle
        return True


def _link_faults(folder: Path) -> list[str]:
    faults = []
    for entry in sorted(folder.iterdir()):
        if link_leaves(entry, folder):
            cure = "put the file itself there"
            expected = "a file inside the folder"
            faults.append(fault(entry.name, expected=expected, came="a link that leaves it", cure=cure))
    return faults


def _with_file(folder: Path, name: str, max_bytes: int, use: Callable[[BinaryIO], None]) -> list[str]:
    """Open one file of the folder and `use` it, unless it is missing, foreign, special or too large."""
    path = folder / name
    if link_leaves(path, folder):
        return []  # named by _link_faults; never opened
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return [fault(name, expected="a file", came="something else", cure="put the file there")]
        if about.st_size > max_bytes:
            came = f"{about.st_size} bytes (oversize)"
            return [fault(name, expected=f"at most {max_bytes} bytes", came=came, cure="make it smaller")]
        with open(path, "rb") as file:
            use(file)
    except FileNotFoundError:
        return [
            fault(name, expected="a file in the bundle's folder", came="none", cure="copy the bundle whole")
        ]
    except OSError as error:
        came = error.strerror or type(error).__name__
        return [fault(name, expected="a readable file", came=came, cure="correct its permissions")]
    return []


def _read_manifest(data: bytes) -> tuple[Manifest | None, Declared, list[str]]:
    faults: list[str] = []
    try:
        raw = parse_json(data, source=MANIFEST_FILE, faults=faults)
    except (ValueError, RecursionError) as error:
        found = fault(MANIFEST_FILE, expected="JSON in UTF-8", came=str(error), cure="correct the file")
        return None, Declared(unsure=frozenset({*_PARTS, "projector", "lm_head"})), [found]
    if not isinstance(raw, dict):
        came = type(raw).__name__
        found = fault(MANIFEST_FILE, expected="a JSON object", came=came, cure="correct the file")
        return None, Declared(unsure=frozenset({*_PARTS, "projector", "lm_head"})), [found]
    faults += _format_faults(raw)
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        faults += _without_format(error)
        lacking = lacking_part(raw)
        if lacking is not None and not any(lacking in one for one in faults):
            faults.append(f"{MANIFEST_FILE}: {lacking}")
        return None, _declared(raw), faults
    return manifest, Declared.of(manifest), faults


def _format_faults(raw: dict[str, object]) -> list[str]:
    came = raw.get("format")
    if type(came) is int and came == _FORMAT:
        return []
    return [
        fault(
            f"{MANIFEST_FILE}: format",
            expected=f"{_FORMAT} (the one this version reads)",
            came=shown(came) if "format" in raw else "no such key",
            cure="update passepartout, or save the bundle again with this version",
        )
    ]


def _without_format(error: ValidationError) -> list[str]:
    """The faults of a manifest apart from its format number, which `_format_faults` names."""
    format_field = f"{MANIFEST_FILE}: format:"
    return [one for one in validation_faults(error, source=MANIFEST_FILE) if not one.startswith(format_field)]


def _declared(raw: dict[str, object]) -> Declared:
    """Return what can be told of the tensors from a faulty manifest, part by part."""
    parts: dict[str, object] = {}
    unsure = set()
    for key, kind in _PARTS.items():
        try:
            parts[key] = None if raw.get(key) is None else kind.model_validate_json(json.dumps(raw[key]))
        except ValidationError:
            unsure.add(key)
    for key in ("projector", "lm_head"):
        if isinstance(raw.get(key, False), bool):
            parts[key] = raw.get(key, False)
        else:
            unsure.add(key)
    return Declared(**parts, unsure=frozenset(unsure))  # type: ignore[arg-type]


def _read_tensors(file: BinaryIO, declared: Declared, tensors: dict[str, Tensor]) -> list[str]:
    """Fill `tensors` and return the faults; tensors of an unknown dtype are named and left out."""
    cure = "save the bundle again with save_bundle"
    try:
        entries = read_header(file, max_header_bytes=MAX_HEADER_BYTES)
        faults = shape_faults(declared, {name: (one.dtype, one.shape) for name, one in entries.items()})
        for name, entry in entries.items():
            if entry.dtype in DTYPES and entry.end > entry.start:
                tensors[name] = _read_tensor(file, entry)
                faults += value_faults(declared, name, tensors[name])
    except TensorFileError as error:
        return [f"{TENSORS_FILE}: {error}; {cure}"]
    return faults


def _read_tensor(file: BinaryIO, entry: TensorEntry) -> Tensor:
    return torch.frombuffer(read_bytes(file, entry), dtype=DTYPES[entry.dtype]).reshape(entry.shape)
