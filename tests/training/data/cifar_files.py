"""CIFAR's files as they are published, with a few pictures: pickled by Python 2, and binary."""

import io
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "pickle_as_python2", "picture_row", "write_binary10", "write_python10"]

COLOURS = tuple(f"colour_{number}" for number in range(10))


def picture_row(number: int) -> NDArray[np.uint8]:
    """Row of a picture whose red is `number`, whose green grows downwards and whose blue grows rightwards."""
    red = np.full((32, 32), number)
    green, blue = np.mgrid[0:32, 0:32]
    return np.stack([red, green, blue]).astype(np.uint8).reshape(3072)


def write_python10(root: Path, labels: Sequence[Sequence[int]]) -> None:
    """`data_batch_1` … and `batches.meta` of cifar-10-batches-py; picture k of batch b has red 10 b + k."""
    root.mkdir(exist_ok=True)
    for place, ones in enumerate(labels):
        rows = np.stack([picture_row(10 * place + number) for number in range(len(ones))])
        name = f"data_batch_{place + 1}" if place < 5 else "test_batch"
        batch = {b"batch_label": b"a batch", b"labels": list(ones), b"data": rows, b"filenames": [b"x.png"]}
        (root / name).write_bytes(pickle_as_python2(batch))
    names = [name.encode() for name in COLOURS]
    meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
    (root / "batches.meta").write_bytes(pickle_as_python2(meta))


def write_binary10(root: Path, labels: Sequence[Sequence[int]]) -> None:
    """The same pictures as cifar-10-batches-bin."""
    root.mkdir(exist_ok=True)
    for place, ones in enumerate(labels):
        name = f"data_batch_{place + 1}.bin" if place < 5 else "test_batch.bin"
        records = [
            bytes([label]) + picture_row(10 * place + number).tobytes() for number, label in enumerate(ones)
        ]
        (root / name).write_bytes(b"".join(records))
    (root / "batches.meta.txt").write_text("\n".join([*COLOURS, "", ""]))


class _Python2Pickler(pickle._Pickler):
    """Text and bytes are Python 2's `str`, which Python 3 does not write any more."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def _save_string(self, value: bytes | str) -> None:
        raw = value.encode("latin-1") if isinstance(value, str) else value
        short = len(raw) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(raw)]) if short else pickle.BINSTRING
        self.write(head + (b"" if short else struct.pack("<i", len(raw))) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _save_string


def pickle_as_python2(value: Any) -> bytes:
    """What Python 2 with numpy 1 wrote of it, opcode for opcode (protocol 2)."""
    out = io.BytesIO()
    _Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
