"""Pickles are read, never run: true batches come through, armed ones are refused before they go off."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prompts.errors import ConfigError
from tests.training.data.cifar_files import pickle_as_python2, picture_row, write_python10
from tests.training.data.opening import open_data
from training.data.batch_pickle import UnsafePickleError, read_batch

ROWS = np.stack([picture_row(number) for number in range(3)])


def written(folder: Path, raw: bytes) -> Path:
    file = folder / "batch"
    file.write_bytes(raw)
    return file


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("key", [b"data", "data"])
def test_what_python_3_writes_is_read(tmp_path: Path, protocol: int, key: bytes | str) -> None:
    raw = pickle.dumps({key: ROWS, b"labels": [1, 2, 3]}, protocol=protocol)
    found = read_batch(written(tmp_path, raw))
    assert (found["data"].dtype, found["data"].tobytes()) == (np.uint8, ROWS.tobytes())
    assert found["labels"] == [1, 2, 3]


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_python_2_wrote_is_read(tmp_path: Path, order: Any) -> None:
    raw = pickle_as_python2({b"data": np.array(ROWS, order=order), b"batch_label": b"one"})
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in raw
    found = read_batch(written(tmp_path, raw))
    assert (found["data"].tolist(), found["batch_label"]) == (ROWS.tolist(), b"one")


def test_text_pickles_of_the_oldest_protocol_are_read(tmp_path: Path) -> None:
    raw = b"(dp0\nS'label_names'\np1\n(lp2\nS'airplane'\np3\naS'cat'\np4\nasS'num_vis'\np5\nI3072\ns."
    assert read_batch(written(tmp_path, raw)) == {"label_names": [b"airplane", b"cat"], "num_vis": 3072}


class _Armed:
    """Leaves a folder behind where its pickle is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def armed_batch(case: str, trace: Path) -> bytes:
    """A pickle that makes the folder `trace` when Python's own unpickler loads it."""
    text, module = str(trace).encode(), os.mkdir.__module__.encode()
    protocols = {"protocol 0": 0, "protocol 2": 2, "protocol 4": 4, "protocol 5": 5}
    if case in protocols:
        return pickle.dumps({"data": _Armed(trace), "labels": [0]}, protocol=protocols[case])
    return {
        "before the dict": b"c" + module + b"\nmkdir\n(S'" + text + b"'\ntR0}.",
        "an instance": b"(S'" + text + b"'\ni" + module + b"\nmkdir\n.",
        "by eval": b'cbuiltins\neval\n(S\'__import__("os").mkdir("' + text + b"\")'\ntR.",
        "as a key": b"}(c" + module + b"\nmkdir\n(S'" + text + b"'\ntRI1\nu.",
    }[case]


ARMED = (
    "protocol 0",
    "protocol 2",
    "protocol 4",
    "protocol 5",
    "before the dict",
    "an instance",
    "by eval",
    "as a key",
)


@pytest.mark.parametrize("case", ARMED)
def test_an_armed_pickle_is_refused_without_going_off(tmp_path: Path, case: str) -> None:
    trace = tmp_path / "trace"
    raw = armed_batch(case, trace)
    pickle.loads(raw, encoding="latin-1")
    assert trace.is_dir(), "the pickle is not armed: the test below would prove nothing"
    trace.rmdir()
    with pytest.raises(UnsafePickleError, match=r"a pickle that asks for (posix\.mkdir|builtins\.eval)"):
        read_batch(written(tmp_path, raw))
    assert not trace.exists()


def test_an_armed_batch_is_refused_by_name(tmp_path: Path) -> None:
    write_python10(tmp_path, [[0]] * 5)
    (tmp_path / "data_batch_4").write_bytes(armed_batch("protocol 2", tmp_path / "trace"))
    with pytest.raises(ConfigError, match=r"data_batch_4: a pickle that asks for posix\.mkdir; unpack"):
        open_data("cifar10", root=tmp_path)
    assert not (tmp_path / "trace").exists()


NEAR = {
    "another name of numpy": b"cnumpy\nsave\n.",
    "a name below a known one": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "another module": b"cnumpy.core.numeric\n_reconstruct\n.",
}


@pytest.mark.parametrize("case", NEAR)
def test_names_near_the_known_ones_are_unknown(tmp_path: Path, case: str) -> None:
    with pytest.raises(UnsafePickleError):
        read_batch(written(tmp_path, NEAR[case]))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x7f}.",  # a frame of 2**63 bytes
        b"\x80\x02}r\xff\xff\xff\xff.",  # the memo's place 4294967295
        b"}p4294967295\n.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x00\x00\x00\x7fa.",  # bytes
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x7fa.",  # a bytearray
    ],
)
def test_no_memory_is_reserved_for_what_is_not_there(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ValueError, match="no whole pickle"):
        read_batch(written(tmp_path, raw))


def test_the_largest_set_is_read(tmp_path: Path) -> None:
    """As many labels and names as CIFAR-100's training half has, the pictures a value each."""
    many = 50_000
    labels = [number % 100 for number in range(many)]
    whole: dict[str, Any] = {
        "data": np.zeros((many, 1), np.uint8),
        "filenames": [f"{number}.png".encode() for number in range(many)],
        "fine_labels": labels,
        "coarse_labels": labels[::-1],
    }
    newer = (pickle.dumps(whole, protocol=protocol) for protocol in (3, 4))
    for raw in (pickle_as_python2({key.encode(): value for key, value in whole.items()}), *newer):
        found = read_batch(written(tmp_path, raw))
        assert found["data"].shape == (many, 1)
        assert all(found[key] == whole[key] for key in whole if key != "data")


def array_pickle(shape: bytes, kind: bytes, values: bytes) -> bytes:
    """A dict with an array, its parts as protocol 0 writes them."""
    dtype = b"cnumpy\ndtype\n(S'" + kind + b"'\nI0\nI1\ntR"
    state = b"(I1\n" + shape + dtype + b"I00\nS'" + values + b"'\nt"
    return (
        b"(dS'data'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state + b"bs."
    )


def nested_key(depth: int) -> bytes:
    """A dict whose key is a tuple in a tuple in a …"""
    return b"\x80\x02})" + b"\x85" * depth + b"K\x01s."


def doubled_key(doublings: int) -> bytes:
    """A dict whose key is a pair of a pair with itself of …: 2**doublings parts to hash."""
    return b"\x80\x02})" + b"q\x00h\x00\x86" * doublings + b"K\x01s."


def doubled_value(doublings: int) -> bytes:
    """A dict whose value is a pair of a pair with itself of …: 2**doublings parts to show."""
    return b"\x80\x02}U\x06labels)" + b"q\x00h\x00\x86" * doublings + b"s."


def long_key(times: int) -> bytes:
    """A dict that asks `times` times whether two equal texts of 100,000 letters are the same key."""
    text = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000
    return b"\x80\x02}(" + text + b"N" + text + b"q\x00N" + b"h\x00N" * times + b"u."


HEAVY = {
    "nested a little": (nested_key(100), "a key that is no name, of tuple"),
    "nested deep": (nested_key(300_000), "a key that is no name, of tuple"),
    "doubled": (b"\x80\x02})" + b"2\x86" * 20 + b"K\x01s.", "DUP, which no batch has"),
    "doubled by the memo": (doubled_key(20), "a key that is no name, of tuple"),
    "doubled sixty times": (doubled_key(60), "a key that is no name, of tuple"),
    "a value doubled": (doubled_value(20), "a tuple among the numbers and texts"),
    "a value doubled sixty times": (doubled_value(60), "a tuple among the numbers and texts"),
    "a key looked at again and again": (long_key(10), "a key that is no name, of str"),
    "many keys": (pickle.dumps(dict.fromkeys(map(str, range(101))), protocol=4), "of 101 keys, more than"),
    "many opcodes": (b"\x80\x02}U\x06labels](" + b"K\x01" * 1_000_000 + b"es.", "more than 1000000 opcodes"),
    "a list in a list": (
        pickle.dumps({"labels": [1, [2]]}, protocol=4),
        "a list among the numbers and texts",
    ),
    "a number of 10,000 digits": (
        b"\x80\x02}U\x06labels](\x8b" + (4000).to_bytes(4, "little") + b"\x7f" * 4000 + b"es.",
        "LONG4, which no batch has",
    ),
    "a set": (pickle.dumps({"labels": {1}}, protocol=4), "EMPTY_SET, which no batch has"),
    "a shape of many sides": (
        array_pickle(b"(" + b"I1\n" * 9 + b"t", b"u1", b"a"),
        "an array of another kind",
    ),
    "a side of 4,000 digits": (
        array_pickle(b"(I0\nL" + b"9" * 4000 + b"L\nt", b"u1", b""),
        "an array of another kind",
    ),
}


@pytest.mark.parametrize("case", HEAVY)
def test_what_costs_more_than_its_bytes_is_refused(tmp_path: Path, case: str) -> None:
    raw, message = HEAVY[case]
    with pytest.raises(ValueError, match=message):
        read_batch(written(tmp_path, raw))


def test_a_list_of_another_kind_is_not_shown_whole(tmp_path: Path) -> None:
    """A list of 300 times the same text of a million letters."""
    write_python10(tmp_path, [[0]] * 5)
    text = b"T" + (1_000_000).to_bytes(4, "little") + b"a" * 1_000_000
    (tmp_path / "data_batch_1").write_bytes(
        b"\x80\x02}U\x06labels](" + text + b"q\x00" + b"h\x00" * 299 + b"es."
    )
    with pytest.raises(ConfigError, match="no list of int, but one with b'aaa") as caught:
        open_data("cifar10", root=tmp_path)
    assert len(str(caught.value)) < 1000


def test_an_array_is_as_long_as_its_shape_says(tmp_path: Path) -> None:
    found = read_batch(written(tmp_path, array_pickle(b"(I2\nI2\nt", b"u1", b"abcd")))
    assert found["data"].tolist() == [[97, 98], [99, 100]]
    lies = [
        array_pickle(b"(I2\nI3\nt", b"u1", b"abcd"),
        array_pickle(b"(I-2\nI-2\nt", b"u1", b"abcd"),
        array_pickle(b"(F2.0\nI2\nt", b"u1", b"abcd"),
        array_pickle(b"I4\n", b"u1", b"abcd"),
        array_pickle(b"(I4\nt", b"O8", b"abcd"),
        array_pickle(b"(I4\nt", b"V1", b"abcd"),
        b"(dS'data'\ncnumpy\nndarray\ns.",
    ]
    for raw in lies:
        with pytest.raises(ValueError, match="an array of another kind than uint8"):
            read_batch(written(tmp_path, raw))
