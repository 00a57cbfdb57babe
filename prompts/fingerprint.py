"""The fingerprint of a base model: which checkpoint a prompt was trained in.

It is taken from the safetensors headers and the first bytes of every tensor, never from whole weights: a 7B
checkpoint takes milliseconds. The same tensors in other shards give the same fingerprint; another dtype, or
other weights, another one.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from prompts.errors import BaseModelError
from prompts.faults import fault
from prompts.manifest import BaseModelRef
from prompts.tensorfile import TensorEntry, TensorFileError, read_bytes, read_header

__all__ = ["base_model_ref", "fingerprint_model", "read_dtypes", "read_shapes"]

_SAMPLE_BYTES = 64
_MAX_HEADER_BYTES = 100_000_000
_DOMAIN = b"passepartout base model 1\n"


def fingerprint_model(folder: Path) -> str:
    """Return `sha256:` and 64 hex digits over name, dtype, shape and first 64 bytes of every tensor, by name.

    Reads `model.safetensors.index.json` where there is one, else every `*.safetensors` of the folder.

    Raises:
        BaseModelError: no such folder, no safetensors in it, a file that cannot be read, a tensor held twice.
    """
    described: dict[str, bytes] = {}
    for path in _weight_files(Path(folder)):
        for name, description in _describe(path).items():
            if name in described:
                cure = "keep one set of weights in the folder"
                raise _refused(f"tensor {name!r}", "it once", f"it again in {path.name}", cure)
            described[name] = description
    digest = hashlib.sha256(_DOMAIN)
    for name in sorted(described):
        digest.update(described[name])
    return f"sha256:{digest.hexdigest()}"


def base_model_ref(folder: Path, *, id: str | None = None) -> BaseModelRef:
    """Return the reference a bundle carries; `id` is a name for people, the folder's own by default.

    Raises:
        BaseModelError: see `fingerprint_model`; or config.json is missing or names no architecture.
    """
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise _refused(
            "config.json: architectures", "a list of names", repr(architectures), "add the class name"
        )
    return BaseModelRef(
        architecture=architectures[0],
        fingerprint=fingerprint_model(folder),
        id=id or folder.resolve().name,
    )


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return tensor name -> shape of a checkpoint, from its headers alone.

    Raises:
        BaseModelError: see `fingerprint_model`.
    """
    return {name: entry.shape for name, entry in _read_entries(folder).items()}


def read_dtypes(folder: Path) -> set[str]:
    """Return the dtypes of a checkpoint's tensors by safetensors' names (`BF16`, `F32`, …), from its headers.

    Raises:
        BaseModelError: see `fingerprint_model`.
    """
    return {entry.dtype for entry in _read_entries(folder).values()}


def _read_entries(folder: Path) -> dict[str, TensorEntry]:
    found: dict[str, TensorEntry] = {}
    for path in _weight_files(Path(folder)):
        with _opened(path) as (_, entries):
            found |= entries
    return found


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise _refused(
                f"{index.name}: weight_map", "tensor -> file", "none", "download the checkpoint again"
            )
        return [folder / name for name in sorted({str(name) for name in weight_map.values()})]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        came = "none" if folder.is_dir() else "no such folder"
        cure = "give a checkpoint folder in safetensors format"
        raise _refused(f"base model {folder.name}", "*.safetensors files", came, cure)
    return files


def _describe(path: Path) -> dict[str, bytes]:
    """Return name -> canonical description of each tensor in one file."""
    with _opened(path) as (file, entries):
        return {
            name: json.dumps(
                [
                    name,
                    entry.dtype,
                    list(entry.shape),
                    read_bytes(file, entry, limit=_SAMPLE_BYTES).hex(),
                ]
            ).encode()
            + b"\n"
            for name, entry in entries.items()
        }


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, dict[str, TensorEntry]]]:
    """The open file and its header; what goes wrong with it inside is translated too."""
    try:
        with open(path, "rb") as file:
            yield file, read_header(file, max_header_bytes=_MAX_HEADER_BYTES)
    except (OSError, TensorFileError) as error:
        came = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
        raise _refused(path.name, "a safetensors file", came, "download the checkpoint again") from error


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        came = (
            "none" if isinstance(error, FileNotFoundError) else f"an unreadable one ({type(error).__name__})"
        )
        raise _refused(path.name, "a JSON file", came, "give a whole checkpoint folder") from error
    if not isinstance(found, dict):
        raise _refused(path.name, "a JSON object", type(found).__name__, "give a whole checkpoint folder")
    return found


def _refused(field: str, expected: str, came: str, cure: str) -> BaseModelError:
    return BaseModelError(fault(field, expected=expected, came=came, cure=cure))
