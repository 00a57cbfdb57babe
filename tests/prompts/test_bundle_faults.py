"""A bundle that is bad: each fault is named, all of them at once, and no bytes make the loader crash."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts import bundle_files
from prompts.bundle import load_bundle, save_bundle
from prompts.errors import BundleError
from prompts.manifest import Manifest, PrefixSpec
from tests.prompts.sample import BASE, edit_json, edit_tensors, faults_of, save_whole

Edit = Callable[[dict[str, Any]], object]


def set_value(name: str, *, to: float) -> Edit:
    """An edit that spoils the first number of a tensor."""
    return lambda tensors: tensors[name].view(-1).__setitem__(0, to)


MANIFEST_FAULTS: dict[str, tuple[Edit, str]] = {
    "unknown key": (lambda raw: raw.update(colour=1), "bundle.json: colour: expected no such key, came 1"),
    "unknown inner key": (lambda raw: raw["text"].update(x=1), "bundle.json: text.x: expected no such key"),
    "missing key": (lambda raw: raw.pop("name"), "bundle.json: name: expected a value, came nothing"),
    "format 2": (lambda raw: raw.update(format=2), "bundle.json: format: expected 1"),
    "format true": (lambda raw: raw.update(format=True), "bundle.json: format: expected 1"),
    "no format": (lambda raw: raw.pop("format"), "bundle.json: format: expected 1"),
    "colon in name": (lambda raw: raw.update(name="a:b"), "bundle.json: name: expected string to match"),
    "number as text": (lambda raw: raw["text"].update(length="3"), "text.length: expected a valid integer"),
    "length zero": (lambda raw: raw["text"].update(length=0), "text.length: expected greater than"),
    "no mode": (lambda raw: raw["vision"].pop("mode"), "vision.mode: expected a value, came nothing"),
    "unknown mode": (
        lambda raw: raw["vision"].update(mode="x"),
        "vision.mode: expected 'released' or 'paper'",
    ),
    "inner too large": (
        lambda raw: raw["frame"].update(inner=17),
        "bundle.json: frame: expected inner to fit",
    ),
    "multiply": (lambda raw: raw["frame"].update(combine="mul"), "frame.combine: expected 'add'"),
    "no base": (lambda raw: raw.update(base_model=None), "bundle.json: base_model: expected {architecture"),
    "fingerprint": (
        lambda raw: raw["base_model"].update(fingerprint="x"),
        "base_model.fingerprint: expected",
    ),
    "template": (
        lambda raw: raw["usage"].update(template="hi"),
        "usage.template: expected {text} exactly once",
    ),
    "choices": (lambda raw: raw["usage"].update(choices=["a", "a"]), "usage.choices: expected distinct"),
    "no choices": (lambda raw: raw["usage"].update(choices=[]), "usage.choices: expected tuple to have"),
    "text undeclared": (lambda raw: raw.update(text=None), "text.prompts: expected no such tensor"),
    "projector undeclared": (
        lambda raw: raw.update(projector=False),
        "projector.linear_1.bias: expected no such",
    ),
    "projector a word": (lambda raw: raw.update(projector="yes"), "bundle.json: projector: expected a valid"),
    "length differs": (
        lambda raw: raw["text"].update(length=5),
        "text.prompts: expected shape (2, 5, 4) (text.layers, text.length, text.hidden of the manifest), "
        "came (2, 3, 4)",
    ),
    "unit": (lambda raw: raw["frame"].update(value_range="unit"), "frame.delta: expected values in [0, 1]"),
}

TENSOR_FAULTS: dict[str, tuple[Edit, str]] = {
    "missing frame": (
        lambda t: t.pop("frame.delta"),
        "frame.delta: expected a tensor (the manifest has frame)",
    ),
    "missing head": (lambda t: t.pop("lm_head.weight"), "lm_head.weight: expected a tensor"),
    "extra": (lambda t: t.update(evil=torch.ones(1)), "tensor 'evil': expected a name among frame.delta"),
    "odd projector": (
        lambda t: t.update({"projector.": torch.ones(1)}),
        "tensor 'projector.': expected a name",
    ),
    "shape": (
        lambda t: t.update({"frame.delta": torch.zeros(3, 16, 19)}),
        "frame.delta: expected shape (3, 16, 20) (frame.canvas of the manifest), came (3, 16, 19)",
    ),
    "head is flat": (
        lambda t: t.update({"lm_head.weight": torch.ones(20)}),
        "lm_head.weight: expected shape (vocabulary, 4), came (20,)",
    ),
    "head is narrow": (
        lambda t: t.update({"lm_head.weight": torch.ones(5, 3)}),
        "lm_head.weight: expected shape (vocabulary, 4), came (5, 3)",
    ),
    "empty": (
        lambda t: t.update({"projector.linear_1.bias": torch.ones(0)}),
        "projector.linear_1.bias: expected 1 to 8 dimensions, none empty, came (0,)",
    ),
    "scalar": (
        lambda t: t.update({"projector.linear_1.bias": torch.tensor(1.0)}),
        "projector.linear_1.bias: expected 1 to 8 dimensions, none empty, came ()",
    ),
    "half frame": (
        lambda t: t.update({"frame.delta": t["frame.delta"].half()}),
        "frame.delta: expected dtype F32, came F16",
    ),
    "double": (
        lambda t: t.update({"text.prompts": t["text.prompts"].double()}),
        "text.prompts: expected dtype F32 or F16 or BF16, came F64",
    ),
    "NaN": (
        set_value("text.prompts", to=float("nan")),
        "text.prompts: expected finite values, came 1 others",
    ),
    "Inf": (set_value("vision.prompts", to=float("inf")), "vision.prompts: expected finite values, came 1"),
    "under the picture": (
        lambda t: t["frame.delta"].__setitem__((0, 8, 10), 1e-30),
        "frame.delta: expected zero under the picture (the inner 8x8), came 1 others, the first 1e-30 at "
        "[0, 8, 10]",
    ),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_faulty_manifest_is_refused_by_field(fault: str, tmp_path: Path) -> None:
    edit, message = MANIFEST_FAULTS[fault]
    save_whole(tmp_path)
    edit_json(tmp_path, edit)
    assert any(message in one for one in faults_of(load_bundle, tmp_path)), faults_of(load_bundle, tmp_path)


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_a_faulty_tensor_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    edit, message = TENSOR_FAULTS[fault]
    save_whole(tmp_path)
    edit_tensors(tmp_path, edit)
    faults = faults_of(load_bundle, tmp_path)
    assert len(faults) == 1
    assert message in faults[0]


def test_all_faults_come_in_one_error(tmp_path: Path) -> None:
    save_whole(tmp_path)
    manifest_edits = ("unknown key", "format 2", "colon in name", "no mode", "length differs", "no base")
    tensor_edits = ("extra", "half frame", "Inf", "missing head")
    edit_json(tmp_path, lambda raw: [MANIFEST_FAULTS[name][0](raw) for name in manifest_edits])
    edit_tensors(tmp_path, lambda tensors: [TENSOR_FAULTS[name][0](tensors) for name in tensor_edits])
    faults = faults_of(load_bundle, tmp_path)
    for message in [MANIFEST_FAULTS[name][1] for name in manifest_edits]:
        assert any(message in one for one in faults), message
    for message in [TENSOR_FAULTS[name][1] for name in tensor_edits]:
        assert any(message in one for one in faults), message
    assert len(faults) == len(manifest_edits) + len(tensor_edits)


def test_the_message_lists_the_faults(tmp_path: Path) -> None:
    save_whole(tmp_path / "mine")
    edit_json(tmp_path / "mine", lambda raw: raw.update(a=1, b=2))
    with pytest.raises(BundleError) as refused:
        load_bundle(tmp_path / "mine")
    lines = str(refused.value).splitlines()
    assert lines[0] == "bundle 'mine' is refused (2 faults):"
    assert lines[1:] == [f"  - {one}" for one in refused.value.faults]
    assert refused.value.path == tmp_path / "mine"


def test_a_thousand_faults_make_a_message_of_fifty(tmp_path: Path) -> None:
    save_whole(tmp_path)
    edit_json(tmp_path, lambda raw: raw.update({f"key{i}": i for i in range(1000)}))
    with pytest.raises(BundleError, match="and 950 more") as refused:
        load_bundle(tmp_path)
    assert len(str(refused.value).splitlines()) == 52


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON in UTF-8"),
        ("{", "expected JSON in UTF-8"),
        ("\udcff", "expected JSON in UTF-8"),
        ("[]", "expected a JSON object, came list"),
        ('{"format": 1, "format": 1}', "'format': expected the key once, came twice"),
        ('{"metrics": {"a": NaN}}', "expected finite numbers, came NaN"),
        ('{"metrics": {"a": -Infinity}}', "expected finite numbers, came -Infinity"),
        ('{"metrics": {"a": 1e999}}', "expected finite numbers, came 1e999"),
        ("[" * 100_000, "expected JSON in UTF-8"),
        ('{"metrics": {"a": ' + "[" * 900 + "]" * 900 + "}}", "recursion limit"),
        ('{"seed": ' + "9" * 5000 + "}", "expected JSON in UTF-8"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str, tmp_path: Path) -> None:
    save_whole(tmp_path)
    (tmp_path / "bundle.json").write_text(text, errors="surrogateescape")
    faults = faults_of(load_bundle, tmp_path)
    assert any(message in one for one in faults), faults


def test_an_oversize_manifest_is_not_read(tmp_path: Path) -> None:
    save_whole(tmp_path)
    os.truncate(tmp_path / "bundle.json", bundle_files.MAX_MANIFEST_BYTES + 1)
    assert any("(oversize)" in one for one in faults_of(load_bundle, tmp_path))


def test_an_oversize_tensor_file_is_not_read(tmp_path: Path) -> None:
    save_whole(tmp_path)
    os.truncate(tmp_path / "tensors.safetensors", bundle_files.MAX_TENSORS_BYTES + 1)  # sparse: takes no disk
    assert any("(oversize)" in one for one in faults_of(load_bundle, tmp_path))


def test_an_oversize_header_is_not_read(tmp_path: Path) -> None:
    save_whole(tmp_path)
    size = bundle_files.MAX_HEADER_BYTES + 1
    (tmp_path / "tensors.safetensors").write_bytes(size.to_bytes(8, "little") + b" " * (size + 8))
    assert any("the header is oversize" in one for one in faults_of(load_bundle, tmp_path))


def test_a_folder_a_file_and_nothing_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "came a file" in faults_of(load_bundle, tmp_path / "file")[0]
    assert "came nothing at this path" in faults_of(load_bundle, tmp_path / "none")[0]
    empty = faults_of(load_bundle, tmp_path)
    assert [one.partition(":")[0] for one in empty] == ["bundle.json", "tensors.safetensors"]


@pytest.mark.parametrize("name", ["bundle.json", "tensors.safetensors"])
def test_a_link_that_leaves_the_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    save_whole(folder)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    faults = faults_of(load_bundle, folder)
    assert f"{name}: expected a file inside the folder, came a link that leaves it" in faults[0]


def test_links_in_a_circle_and_special_files_are_refused(tmp_path: Path) -> None:
    save_whole(tmp_path)
    (tmp_path / "bundle.json").unlink()
    (tmp_path / "bundle.json").symlink_to("bundle.json")
    (tmp_path / "tensors.safetensors").unlink()
    os.mkfifo(tmp_path / "tensors.safetensors")  # opening it would wait for ever
    faults = faults_of(load_bundle, tmp_path)
    assert any(one.startswith("bundle.json: ") for one in faults)
    assert any("tensors.safetensors: expected a file, came something else" in one for one in faults)


def test_a_file_beside_the_two_is_no_fault(tmp_path: Path) -> None:
    save_whole(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    assert faults_of(load_bundle, tmp_path) == []


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    save_whole(tmp_path)
    torch.save({"text.prompts": torch.ones(1)}, tmp_path / "tensors.safetensors")
    assert any("this is no safetensors file" in one for one in faults_of(load_bundle, tmp_path))


@pytest.mark.parametrize("name", ["bundle.json", "tensors.safetensors"])
def test_broken_bytes_never_crash_the_loader(name: str, tmp_path: Path) -> None:
    """400 files, each with a few bytes changed or its end cut: loaded, or refused with a BundleError."""
    save_whole(tmp_path)
    whole = (tmp_path / name).read_bytes()
    dice = random.Random(11)
    refused = 0
    for _ in range(400):
        broken = bytearray(whole[: dice.choice([len(whole), dice.randrange(len(whole))])])
        for _ in range(min(dice.randrange(4), len(broken))):
            broken[dice.randrange(min(len(broken), 700))] = dice.randrange(256)
        (tmp_path / name).write_bytes(broken)
        refused += bool(faults_of(load_bundle, tmp_path))
    assert refused > 200


def header_file(described: object, data: bytes) -> bytes:
    header = json.dumps(described).encode()
    return len(header).to_bytes(8, "little") + header + data


def about(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "came 3 bytes"),
        (
            header_file({"a": about(0, 4, [1]), "b": about(2, 6, [1])}, bytes(6)),
            "tensors overlap or leave a gap",
        ),
        (header_file({"a": about(4, 8, [1])}, bytes(8)), "tensors overlap or leave a gap"),
        (header_file({"a": about(0, 4, [1])}, bytes(5)), "it is cut or has a tail"),
        (header_file({"a": about(0, 4, [1])}, bytes(3)), "it is cut or has a tail"),
        (header_file({"a": about(0, 4, [2])}, bytes(4)), "expected 8 bytes for F32 (2,), came 4"),
        (header_file({"a": about(0, 4, [-1])}, bytes(4)), "expected a dtype, a shape and two offsets"),
        (header_file({"a": {"dtype": "F32"}}, b""), "expected {dtype, shape, data_offsets}"),
        (header_file({"a": about(8, 4, [1], "ODD")}, bytes(8)), "tensors overlap or leave a gap"),
        (header_file([], b""), "expected a JSON object as header"),
        ((11).to_bytes(8, "little") + b'{"a":1,"a":', "expected a JSON header"),
        ((13).to_bytes(8, "little") + b'{"a":1,"a":1}', "expected each key once"),
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    save_whole(tmp_path)
    (tmp_path / "tensors.safetensors").write_bytes(content)
    faults = faults_of(load_bundle, tmp_path)
    assert any(one.startswith("tensors.safetensors: ") and message in one for one in faults), faults


def test_a_prefix_of_another_shape_is_named(tmp_path: Path) -> None:
    spec = PrefixSpec(layers=2, length=3, kv_heads=2, head_dim=4)
    manifest = Manifest(name="task", version="1", base_model=BASE, prefix=spec)
    good = {"prefix.keys": torch.ones(2, 3, 8), "prefix.values": torch.ones(2, 3, 8)}
    assert save_bundle(tmp_path / "task", manifest, good).trained_values == {"prefix": 96}
    with pytest.raises(BundleError) as refused:
        save_bundle(tmp_path / "task", manifest, {"prefix.keys": torch.ones(2, 3, 4)})
    missing, shape = refused.value.faults
    assert missing.startswith("prefix.values: expected a tensor (the manifest has prefix), came none")
    assert shape.startswith("prefix.keys: expected shape (2, 3, 8) (prefix.layers, prefix.length, prefix.kv")
    assert load_bundle(tmp_path / "task").manifest == manifest
