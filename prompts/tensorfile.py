"""Reads a safetensors file's header and single tensors, trusting nothing in it.

The format: 8 bytes little-endian header length n, n bytes of JSON `{name: {dtype, shape, data_offsets}}`,
then the tensors' bytes without gap or overlap. Reading a header never loads a tensor.
"""

import json
import math
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["TensorEntry", "TensorFileError", "read_bytes", "read_header"]

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}


class TensorFileError(ValueError):
    """The bytes are not a well-formed safetensors file; the message says expected and came."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as the header describes it. `start`, `end`: its bytes' place in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: BinaryIO, *, max_header_bytes: int) -> dict[str, TensorEntry]:
    """Return name -> entry of an open safetensors file.

    Raises:
        TensorFileError: the file is cut, not safetensors, its header is larger than `max_header_bytes`,
            names a tensor twice, or its tensors overlap, leave gaps or do not fill the file.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES:
        raise TensorFileError(f"expected a safetensors file (8 bytes and a header), came {size} bytes")
    if length > min(max_header_bytes, size - _LENGTH_BYTES):
        raise TensorFileError(
            f"expected a safetensors header of at most {min(max_header_bytes, size - _LENGTH_BYTES)} bytes, "
            f"came {length} bytes: the header is oversize, or this is no safetensors file"
        )
    described = _parse(file.read(length))
    described.pop(_METADATA, None)
    begin = _LENGTH_BYTES + length
    entries = {name: _entry(name, about, begin) for name, about in described.items()}
    _check_layout(entries, begin, size)
    return entries


def read_bytes(file: BinaryIO, entry: TensorEntry, *, limit: int | None = None) -> bytearray:
    """Return a tensor's bytes, or the first `limit` of them.

    Raises:
        TensorFileError: the file ends before the tensor does (it changed since its header was read).
    """
    count = entry.end - entry.start if limit is None else min(limit, entry.end - entry.start)
    file.seek(entry.start)
    buffer = bytearray(file.read(count))
    if len(buffer) != count:
        raise TensorFileError(f"expected {count} bytes at {entry.start}, came {len(buffer)}: the file is cut")
    return buffer


def _parse(header: bytes) -> dict[str, object]:
    doubles: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                doubles.append(key)
            found[key] = value
        return found

    try:
        described = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"expected a JSON header (safetensors), came other bytes: {error}") from error
    if not isinstance(described, dict):
        raise TensorFileError(f"expected a JSON object as header, came {type(described).__name__}")
    if doubles:
        raise TensorFileError(f"expected each key once in the header, came {doubles[:5]} twice")
    return described


def _entry(name: str, about: object, begin: int) -> TensorEntry:
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(
            f"{name!r}: expected {{dtype, shape, data_offsets}} in the header, came other keys"
        )
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise TensorFileError(f"{name!r}: expected a dtype, a shape and two offsets, came {str(about)[:120]}")
    start, end = offsets
    wanted = math.prod(shape) * _DTYPE_BYTES[dtype] if dtype in _DTYPE_BYTES else end - start
    if end - start != wanted:
        raise TensorFileError(
            f"{name!r}: expected {wanted} bytes for {dtype} {tuple(shape)}, came {end - start}"
        )
    return TensorEntry(dtype=dtype, shape=tuple(shape), start=begin + start, end=begin + end)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**48 for one in value)


def _check_layout(entries: dict[str, TensorEntry], begin: int, size: int) -> None:
    reached = begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != reached or entry.end < entry.start:
            raise TensorFileError(
                f"{name!r}: expected its bytes to start at {reached}, came {entry.start}: "
                "tensors overlap or leave a gap"
            )
        reached = entry.end
    if reached != size:
        raise TensorFileError(f"expected {reached} bytes in the file, came {size}: it is cut or has a tail")
