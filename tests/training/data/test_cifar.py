"""CIFAR-10 and CIFAR-100, pickled and binary, whole and broken."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prompts.errors import ConfigError
from tests.training.data.cifar_files import (
    COLOURS,
    pickle_as_python2,
    picture_row,
    write_binary10,
    write_python10,
)
from tests.training.data.opening import answers, open_data

LABELS = ((0, 0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (3, 3, 1))
"""Of five training batches and the test batch."""
NAMES = tuple(name.replace("_", " ") for name in COLOURS)
WRITERS = {"python": write_python10, "binary": write_binary10}


@pytest.mark.parametrize("version", WRITERS)
def test_cifar10(tmp_path: Path, version: str) -> None:
    WRITERS[version](tmp_path, LABELS)
    source = open_data("cifar10", root=tmp_path)
    assert answers(source) == [*NAMES, NAMES[0]]
    assert (source[0].choices, source[0].question) == (NAMES, "What is in the picture?")
    assert answers(open_data("cifar10", root=tmp_path, split="test")) == [NAMES[1], NAMES[3], NAMES[3]]


@pytest.mark.parametrize("version", WRITERS)
def test_its_pictures_are_upright_and_rgb(tmp_path: Path, version: str) -> None:
    WRITERS[version](tmp_path, LABELS)
    source = open_data("cifar10", root=tmp_path)
    for index, red in ((5, 21), (9, 41), (10, 1)):  # batch 3's second, batch 5's second, batch 1's second
        picture = source[index].picture
        assert picture is not None
        assert (picture.mode, picture.size) == ("RGB", (32, 32))
        assert picture.getpixel((7, 3)) == (red, 3, 7)  # green grows downwards, blue rightwards


def test_a_limit_keeps_the_classes_balanced(tmp_path: Path) -> None:
    write_python10(tmp_path, ((0,) * 9, (0,) * 9, (1, 1), (2,), (0, 1, 2)))
    assert answers(open_data("cifar10", root=tmp_path, limit=6)) == ["colour 0", "colour 1", "colour 2"] * 2


def write_100(root: Path, version: str, fine: list[int], coarse: list[int]) -> None:
    rows = np.stack([picture_row(number) for number in range(len(fine))])
    kinds = {"fine": 100, "coarse": 20}
    names = {kind: [f"{kind}_{number}" for number in range(count)] for kind, count in kinds.items()}
    if version == "binary":
        records = (bytes(labels) for labels in zip(coarse, fine, strict=True))
        (root / "train.bin").write_bytes(
            b"".join(r + row.tobytes() for r, row in zip(records, rows, strict=True))
        )
        for kind, ones in names.items():
            (root / f"{kind}_label_names.txt").write_text("\n".join(ones) + "\n")
        return
    (root / "train").write_bytes(
        pickle_as_python2({b"fine_labels": fine, b"coarse_labels": coarse, b"data": rows})
    )
    meta = {f"{kind}_label_names".encode(): [one.encode() for one in ones] for kind, ones in names.items()}
    (root / "meta").write_bytes(pickle_as_python2(meta))


@pytest.mark.parametrize("version", WRITERS)
def test_cifar100_by_classes_or_groups(tmp_path: Path, version: str) -> None:
    write_100(tmp_path, version, fine=[99, 3, 3], coarse=[19, 0, 7])
    fine = open_data("cifar100", root=tmp_path, question="Which?")
    assert answers(fine) == ["fine 3", "fine 99", "fine 3"]
    assert (len(fine[0].choices or ()), fine[0].question) == (100, "Which?")
    assert fine[1].picture is not None
    assert fine[1].picture.getpixel((7, 3)) == (0, 3, 7)
    coarse = open_data("cifar100", root=tmp_path, labels="coarse")
    assert answers(coarse) == ["coarse 0", "coarse 19", "coarse 7"]
    assert len(coarse[0].choices or ()) == 20


def test_plain_bytes_are_preferred_to_pickles(tmp_path: Path) -> None:
    write_binary10(tmp_path, LABELS)
    write_python10(tmp_path, LABELS)
    for file in tmp_path.glob("*_batch*[0-9]"):
        file.write_bytes(b"broken")
    assert len(open_data("cifar10", root=tmp_path)) == 11


@pytest.mark.parametrize("version", WRITERS)
def test_all_missing_files_are_named(tmp_path: Path, version: str) -> None:
    WRITERS[version](tmp_path, LABELS)
    end = ".bin" if version == "binary" else ""
    (tmp_path / f"data_batch_2{end}").unlink()
    (tmp_path / f"data_batch_4{end}").unlink()
    with pytest.raises(ConfigError) as caught:
        open_data("cifar10", root=tmp_path)
    [fault] = caught.value.faults
    assert fault.startswith("root: expected a folder with data_batch_1, data_batch_2, ")
    assert "(or data_batch_1.bin, " in fault
    assert f"came no {tmp_path}/data_batch_2{end}, {tmp_path}/data_batch_4{end}; name the folder" in fault


def broken(case: str, root: Path) -> None:
    """Breaks one file of CIFAR-10's Python version."""
    rows = np.stack([picture_row(0), picture_row(1)])
    batches: dict[str, Any] = {
        "cut": pickle_as_python2({b"data": rows, b"labels": [0, 1]})[:-100],
        "no pickle": b"GIF89a",
        "empty": b"",
        "a list": pickle.dumps([1, 2]),
        "no data": pickle_as_python2({b"labels": [0, 1]}),
        "one label": pickle_as_python2({b"data": rows, b"labels": [0]}),
        "a label too high": pickle_as_python2({b"data": rows, b"labels": [0, 10]}),
        "a label of many digits": pickle.dumps({b"data": rows, b"labels": [0, 10**600]}, protocol=3),
        "labels as text": pickle_as_python2({b"data": rows, b"labels": [b"0", b"1"]}),
        "floats": pickle_as_python2({b"data": rows.astype(np.float32), b"labels": [0, 1]}),
        "other size": pickle_as_python2({b"data": rows[:, :768], b"labels": [0, 1]}),
        "no pictures": pickle_as_python2({b"data": rows[:0], b"labels": []}),
        "objects": pickle_as_python2({b"data": np.array([[1], [2]], dtype=object), b"labels": [0, 1]}),
    }
    (root / "data_batch_3").write_bytes(batches[case])


CASES = {
    "cut": "no whole pickle",
    "no pickle": "no whole pickle",
    "empty": "no whole pickle",
    "a list": "a pickle of list, not of a dict",
    "no data": "data of shape None for 2 labels",
    "one label": r"data of shape \(2, 3072\) for 1 labels",
    "a label too high": "expected labels from 0 to 9, came .*data_batch_3: 1 others, the first of them 10",
    "a label of many digits": r"1 others, the first of them 10{78}…; unpack",
    "labels as text": "no list of int",
    "floats": "an array of another kind than uint8",
    "other size": r"data of shape \(2, 768\)",
    "no pictures": r"data of shape \(0, 3072\) for 0 labels",
    "objects": "an array of another kind than uint8",
}


@pytest.mark.parametrize(("case", "message"), CASES.items())
def test_a_broken_batch_is_refused(tmp_path: Path, case: str, message: str) -> None:
    write_python10(tmp_path, LABELS)
    broken(case, tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        open_data("cifar10", root=tmp_path)
    [fault] = caught.value.faults
    assert fault.startswith("root: expected ")
    assert "data_batch_3: " in fault


def test_all_broken_files_are_named(tmp_path: Path) -> None:
    write_binary10(tmp_path, LABELS)
    for name in ("data_batch_1.bin", "data_batch_5.bin"):
        (tmp_path / name).write_bytes(bytes(3072))
    (tmp_path / "batches.meta.txt").write_text("\n".join(COLOURS[:9]))
    with pytest.raises(ConfigError) as caught:
        open_data("cifar10", root=tmp_path)
    came = [fault.partition(", came ")[2].partition(";")[0] for fault in caught.value.faults]
    assert came == [
        f"9 in {tmp_path}/batches.meta.txt",
        *(f"{tmp_path}/data_batch_{n}.bin: 3072 bytes, no multiple of 3073" for n in (1, 5)),
    ]
