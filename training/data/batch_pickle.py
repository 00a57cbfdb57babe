"""Reads CIFAR's pickled batches without running anything that a pickle asks for.

A pickle is a program. It can name any function of any module and have it called; that is how a file takes
over the machine that opens it. Here the only names let through are the three that a uint8 array needs, and
even these are not called: each call is written down as a `_Call`, and the array is made from what was written
down after its shape, type and length were checked. Everything else in a batch is a plain value.
"""

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UnsafePickleError", "read_batch"]

_ARRAY, _DTYPE = "_reconstruct", "dtype"
_KNOWN = {
    ("numpy.core.multiarray", _ARRAY),  # numpy 1, which wrote the published files
    ("numpy._core.multiarray", _ARRAY),
    ("numpy", "ndarray"),
    ("numpy", _DTYPE),
}
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
)
"""What the unpickler raises on bytes that are no pickle, or a cut one."""


_SIZED = ("FRAME", "LONG_BINPUT", "PUT")
"""What makes the unpickler reserve as much memory as its argument says."""


class UnsafePickleError(ValueError):
    """The pickle names something that no batch of numbers needs. Nothing of it was run."""


class _Call:
    """A call the pickle asks for, written down and not made: the name, what it was given, its state."""

    __slots__ = ("given", "name", "state")

    def __init__(self, name: str, given: tuple[Any, ...] = ()) -> None:
        self.name, self.given, self.state = name, given, None

    def __call__(self, *given: Any) -> "_Call":
        return _Call(self.name, given)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler that finds nothing outside `_KNOWN`, and there only `_Call`s."""

    def find_class(self, module: str, name: str) -> _Call:
        if (module, name) not in _KNOWN:
            raise UnsafePickleError(f"a pickle that asks for {module}.{name}")
        return _Call(name)


def read_batch(file: Path) -> dict[str, Any]:
    """The values of a pickled dict; keys as text, arrays as uint8, text values as bytes.

    Raises:
        UnsafePickleError: it names anything but numpy's array; nothing of it was run.
        ValueError: no pickle, a cut one, or one without a dict of numbers and text.
        OSError: the file cannot be read.
    """
    raw = file.read_bytes()
    try:
        _require_sizes(raw)
        found = _Reader(io.BytesIO(raw), encoding="bytes").load()
    except UnsafePickleError:
        raise
    except _BROKEN as error:
        raise ValueError(f"no whole pickle ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(key, bytes | str) for key in found):
        raise ValueError(f"a pickle of {type(found).__name__}, not of a dict with names")
    return {_text(key): _value(value) for key, value in found.items()}


def _require_sizes(raw: bytes) -> None:
    """Reads the pickle as a list of opcodes: lengths beyond the end must not become memory.

    Raises:
        ValueError: an unknown opcode, a length or a number of the memo larger than the file.
    """
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in _SIZED and isinstance(argument, int) and argument > len(raw):
            raise ValueError(f"{opcode.name} of {argument} in {len(raw)} bytes")


def _text(key: bytes | str) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")


def _value(value: Any) -> Any:
    return _array(value) if isinstance(value, _Call) else value


def _array(call: _Call) -> NDArray[np.uint8]:
    """The array that a call of numpy's `_reconstruct` stands for.

    Its state is (version, shape, dtype, whether column by column, values).

    Raises:
        ValueError: it is none of uint8, as long as its shape says.
    """
    state = call.state if call.name == _ARRAY and isinstance(call.state, tuple) else ()
    if len(state) == 5:
        _, shape, kind, by_column, values = state
        is_plain = _is_uint8(kind) and isinstance(by_column, bool) and isinstance(values, bytes)
        if is_plain and _is_shape(shape) and math.prod(shape) == len(values):
            return np.frombuffer(values, dtype=np.uint8).reshape(shape, order="F" if by_column else "C")
    raise ValueError("an array of another kind than uint8, as long as its shape says")


def _is_uint8(kind: Any) -> bool:
    return isinstance(kind, _Call) and kind.name == _DTYPE and kind.given[:1] in ((b"u1",), ("u1",))


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
