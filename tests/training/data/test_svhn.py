"""SVHN's MATLAB files, whole and broken."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from prompts.errors import ConfigError
from tests.training.data.opening import answers, open_data

DIGITS = tuple("0123456789")


def write(root: Path, split: str, labels: list[int], **changes: Any) -> Path:
    """Pictures with red = number, green growing downwards, blue growing rightwards; labels as published."""
    down, right = np.mgrid[0:32, 0:32]
    pictures = [np.stack([np.full((32, 32), n), down, right], axis=-1) for n in range(len(labels))]
    variables = {"X": np.stack(pictures, axis=-1).astype(np.uint8), "y": np.array([labels], np.uint8).T}
    file = root / f"{split}_32x32.mat"
    savemat(file, {**variables, **changes}, do_compression=True)
    return file


def test_svhn_with_ten_for_zero(tmp_path: Path) -> None:
    write(tmp_path, "train", [1, 10, 9, 10])
    write(tmp_path, "extra", [5])
    source = open_data("svhn", root=tmp_path)
    assert answers(source) == ["0", "1", "9", "0"]
    assert (source[0].choices, source[0].question) == (DIGITS, "Which digit is in the picture?")
    for index, red in enumerate((1, 0, 2, 3)):
        picture = source[index].picture
        assert picture is not None
        assert (picture.mode, picture.size, picture.getpixel((7, 3))) == ("RGB", (32, 32), (red, 3, 7))
    assert answers(open_data("svhn", root=tmp_path, split="extra")) == ["5"]


def test_a_limit_keeps_the_digits_balanced(tmp_path: Path) -> None:
    write(tmp_path, "test", [1] * 9 + [10, 2, 10])
    source = open_data("svhn", root=tmp_path, split="test", limit=5, question="Which?")
    assert (answers(source), source[4].question) == (["0", "1", "2", "0", "1"], "Which?")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "label 0": ({"y": np.array([[0], [1]], np.uint8)}, "1 labels out of range, the first of them 0"),
    "label 11": ({"y": np.array([[11], [1]], np.uint8)}, "1 labels out of range, the first of them 11"),
    "half labels": ({"y": np.array([[1.5], [1]])}, r"y \(2, 1\) float64"),
    "one label less": ({"y": np.array([[1]], np.uint8)}, r"X \(32, 32, 3, 2\) uint8 and y \(1, 1\)"),
    "text": ({"y": "ab"}, "y "),
    "floats": ({"X": np.zeros((32, 32, 3, 2))}, "float64"),
    "grey": ({"X": np.zeros((32, 32, 2), np.uint8)}, r"X \(32, 32, 2\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_other_variables_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN[case]
    write(tmp_path, "train", [1, 2], **changes)
    with pytest.raises(ConfigError, match=rf"root: expected SVHN's format 2.*, came .*{message}"):
        open_data("svhn", root=tmp_path)


def test_a_file_without_its_variables_is_refused(tmp_path: Path) -> None:
    savemat(tmp_path / "train_32x32.mat", {"digitStruct": [1]})
    with pytest.raises(ConfigError, match=r"train_32x32\.mat: X and y missing; get the set's format 2"):
        open_data("svhn", root=tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 100, 200])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = write(tmp_path, "train", [1, 2])
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"root: expected SVHN's format 2.*, came .*train_32x32\.mat: "):
        open_data("svhn", root=tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"root: expected SVHN's test_32x32\.mat, came no .*test_32x32"):
        open_data("svhn", root=tmp_path, split="test")


def test_without_scipy_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train", [1, 2])
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ConfigError, match=r"expected scipy, .*, came none installed; pip install scipy"):
        open_data("svhn", root=tmp_path)
