"""Reads CIFAR's pickled batches without running anything that a pickle asks for.

A pickle is a program. It can name any function of any module and have it called, and where nothing is
called it can still end the interpreter (a tuple nested two million deep, hashed as a key) or keep it busy for
ever (a key of 2**60 parts, made by sixty doublings). So the opcodes are read here, and only those that a
batch has do anything. The names let through are the three that a uint8 array needs, and even these are not
called: each call is written down as a `_Call`, and the array is made from what was written down after its
shape, type and length were checked. Keys are short texts; values are numbers, texts, lists of them, and
arrays.
"""

import math
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UnsafePickleError", "read_batch"]

_ARRAY, _DTYPE = "_reconstruct", "dtype"
_KNOWN = {
    f"numpy.core.multiarray {_ARRAY}",  # numpy 1, which wrote the published files
    f"numpy._core.multiarray {_ARRAY}",
    "numpy ndarray",
    f"numpy {_DTYPE}",
}
"""`module name`, as `pickletools` writes it."""

_MOST_OPCODES = 1_000_000
"""CIFAR-100's 50,000 pictures take 200,000, and 350,000 in the oldest protocol."""
_MOST_KEYS = 100
_LONGEST_KEY = 100
"""Characters: equal keys are compared letter by letter as often as they come."""
_MOST_SIDES = 8
_SHOWN_CHARACTERS = 200
_SIZED = ("FRAME", "LONG_BINPUT", "PUT")
"""What says how much is to come, or where it is kept: never beyond the file's length."""
_SCALARS = (bool, bytes, float, int, str, type(None))
_BROKEN = (LookupError, ValueError, TypeError, AttributeError, OverflowError)
"""What bytes that are no pickle, or a cut one, raise."""


class UnsafePickleError(ValueError):
    """The pickle names something that no batch of numbers needs. Nothing of it was run."""


class _Call:
    """A call the pickle asks for, written down and not made: the name, what it was given, its state."""

    __slots__ = ("given", "name", "state")

    def __init__(self, name: str, given: tuple[Any, ...] = ()) -> None:
        self.name, self.given, self.state = name, given, None


class _Reader:
    """What the opcodes read so far have made; `stack` since the last mark, `below` what came before each."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        """A number, a text or nothing."""
        self.stack.append(value)

    def mark(self, _: object) -> None:
        """What follows belongs together."""
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Takes what stands since the last mark, and the mark."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def take(self, count: int) -> list[Any]:
        """Takes the last `count` values, oldest first."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def keep(self, place: int | None) -> None:
        """Notes the last value under a number; None: the next one."""
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def append(self, values: list[Any]) -> None:
        """Adds to the list that stands last."""
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for what is no list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any], *, new: bool = False) -> None:
        """Adds keys and values, in turn, to the dict that stands last, or to a new one."""
        if new:
            self.push({})
        if not isinstance(self.stack[-1], dict):
            raise TypeError("keys for what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, bytes | str) or len(key) > _LONGEST_KEY:
                raise ValueError(f"a key that is no name, of {type(key).__name__}")
            self.stack[-1][key] = value

    def find(self, name: str) -> None:
        """Looks a name up: a `_Call` for a known one."""
        if name not in _KNOWN:
            raise UnsafePickleError(f"a pickle that asks for {name.replace(' ', '.')[:_SHOWN_CHARACTERS]}")
        self.push(_Call(name.rpartition(" ")[2]))

    def call(self) -> None:
        """Writes a call down."""
        what, given = self.take(2)
        if not isinstance(what, _Call) or not isinstance(given, tuple):
            raise TypeError("a call without a name")
        self.push(_Call(what.name, given))

    def build(self) -> None:
        """Writes a call's state down."""
        (state,) = self.take(1)
        self.stack[-1].state = state


_Step = Callable[[_Reader, Any], None]

_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_TEXTS_OF_PYTHON_2 = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_STEPS: Mapping[str, _Step] = MappingProxyType(
    {
        **dict.fromkeys((*_NUMBERS, *_BYTES, *_TEXTS), _Reader.push),
        **dict.fromkeys(_TEXTS_OF_PYTHON_2, lambda reader, text: reader.push(text.encode("latin-1"))),
        **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda reader, _: None),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Reader.keep),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda reader, at: reader.push(reader.memo[at])),
        **dict.fromkeys(("GLOBAL", "INST"), _Reader.find),  # INST: to say what an armed one asks for
        "STACK_GLOBAL": lambda reader, _: reader.find(" ".join(reader.take(2))),
        "NONE": _Reader.push,
        "NEWTRUE": lambda reader, _: reader.push(True),
        "NEWFALSE": lambda reader, _: reader.push(False),
        "MARK": _Reader.mark,
        "EMPTY_LIST": lambda reader, _: reader.push([]),
        "LIST": lambda reader, _: reader.push(reader.since_mark()),
        "APPEND": lambda reader, _: reader.append(reader.take(1)),
        "APPENDS": lambda reader, _: reader.append(reader.since_mark()),
        "EMPTY_TUPLE": lambda reader, _: reader.push(()),
        "TUPLE": lambda reader, _: reader.push(tuple(reader.since_mark())),
        "TUPLE1": lambda reader, _: reader.push(tuple(reader.take(1))),
        "TUPLE2": lambda reader, _: reader.push(tuple(reader.take(2))),
        "TUPLE3": lambda reader, _: reader.push(tuple(reader.take(3))),
        "EMPTY_DICT": lambda reader, _: reader.push({}),
        "DICT": lambda reader, _: reader.update(reader.since_mark(), new=True),
        "SETITEM": lambda reader, _: reader.update(reader.take(2)),
        "SETITEMS": lambda reader, _: reader.update(reader.since_mark()),
        "REDUCE": lambda reader, _: reader.call(),
        "BUILD": lambda reader, _: reader.build(),
    }
)
"""Opcode -> what it does, given its argument (None where it has none). No batch has any other."""


def read_batch(file: Path) -> dict[str, Any]:
    """The values of a pickled dict; keys as text, arrays as uint8, text values as bytes.

    Raises:
        UnsafePickleError: it names anything but numpy's array; nothing of it was run.
        ValueError: no pickle, a cut one, one with opcodes that no batch has, or one without a dict of numbers
            and text.
        OSError: the file cannot be read.
    """
    raw = file.read_bytes()
    try:
        found = _read(raw)
    except UnsafePickleError:
        raise
    except _BROKEN as error:
        raise ValueError(f"no whole pickle ({str(error)[:_SHOWN_CHARACTERS]})") from error
    if not isinstance(found, dict):
        raise ValueError(f"a pickle of {type(found).__name__}, not of a dict with names")
    if len(found) > _MOST_KEYS:
        raise ValueError(f"a pickle of {len(found)} keys, more than {_MOST_KEYS}")
    return {_text(key): _value(value) for key, value in found.items()}


def _read(raw: bytes) -> Any:
    """What a pickle's opcodes make; raises UnsafePickleError, or one of `_BROKEN`."""
    reader = _Reader()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if number == _MOST_OPCODES:
            raise ValueError(f"more than {_MOST_OPCODES} opcodes")
        if opcode.name in _SIZED and (argument or 0) > len(raw):
            raise ValueError(f"{opcode.name} of {argument} in {len(raw)} bytes")
        if opcode.name not in _STEPS:
            raise ValueError(f"{opcode.name}, which no batch has")
        _STEPS[opcode.name](reader, argument)
    (found,) = reader.take(1)
    return found


def _text(key: bytes | str) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")


def _value(value: Any) -> Any:
    """A scalar, a list of scalars, or an array; raises ValueError otherwise, without a look any deeper."""
    if isinstance(value, _Call):
        return _array(value)
    foreign = [one for one in (value if isinstance(value, list) else [value]) if type(one) not in _SCALARS]
    if foreign:
        raise ValueError(f"a {type(foreign[0]).__name__} among the numbers and texts")
    return value


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
    is_short = isinstance(shape, tuple) and len(shape) <= _MOST_SIDES
    return is_short and all(type(side) is int and 0 <= side < 2**31 for side in shape)
