"""`passepartout task`, through the command itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from passepartout import main
from prompts.bundle import save_bundle
from prompts.errors import StoreError
from prompts.frame import frame_mask, frame_picture
from prompts.manifest import FrameSpec, Manifest, Provenance
from prompts.placing import find_bundle
from prompts.store import scan_store
from tests.prompts.sample import edit_json, save_frame, save_whole

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_whole(
        tmp_path / "whole",
        description="Names animals.",
        metrics={"accuracy": 0.915, "n": 400},
        provenance=Provenance(method="m2pt", seed=3, config={"lr": 7e-4}, libraries={"torch": "2.13.0"}),
    )
    return tmp_path / "whole"


def test_words_too_many_are_told_with_the_usage_of_their_verb(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, prog in (
        (["preview", str(whole), "out.png"], "preview"),
        (["import", "m2pt", "a", "b", "--base", "m", "c"], "import m2pt"),
    ):
        with pytest.raises(SystemExit):
            main(["task", *words])
        said = capsys.readouterr().err
        assert said.startswith(f"usage: passepartout task {prog} ")
        assert f"unrecognized arguments: {words[-1]}" in said


def test_show_says_what_a_bundle_holds(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "show", str(whole)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "whole 1.0 Names animals. digest ",
        "base model tiny (LlavaForConditionalGeneration) sha256:000",
        "frame canvas (16, 20), inner 8, resample bicubic, value_range unbounded, combine add",
        "vision layers 2, length 2, hidden 6, mode released",
        "trained 864 values: frame 768, lm_head 20, projector 28, text 24, vision 24",
        "size 4,128 bytes",
        "text.prompts 2 x 3 x 4 float16 48 bytes",
        "template Name it: {text} choices cat, dog",
        "metrics accuracy 0.915, n 400",
        'method m2pt seed 3 config {"lr": 0.0007} libraries {"torch": "2.13.0"}',
    ):
        assert said in shown


def test_show_as_json_is_the_manifest_and_more(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "show", str(whole), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert json.loads((whole / "bundle.json").read_text()).items() <= shown.items()
    assert shown["trained_values"]["frame"] == 768
    assert shown["tensors"]["vision.prompts"] == {"shape": [2, 2, 6], "dtype": "bfloat16", "size_bytes": 48}
    assert len(shown["digest"]) == 64


def test_show_of_a_frame_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_frame(tmp_path / "task", "lines")
    assert main(["task", "show", str(tmp_path / "task")]) == 0
    assert "base model  any" in capsys.readouterr().out


def test_verify_prints_ok_and_the_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = save_frame(tmp_path / "task", "lines").digest
    assert main(["task", "verify", str(tmp_path / "task")]) == 0
    assert capsys.readouterr().out == f"ok {digest}\n"
    assert main(["task", "verify", str(tmp_path / "task"), "--json"]) == 0
    expected = {"ok": True, "name": "lines", "version": "1", "digest": digest}
    assert json.loads(capsys.readouterr().out) == expected


def test_verify_lists_every_fault(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(whole, lambda raw: raw.update(colour=1, text=None))
    assert main(["task", "verify", str(whole)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: bundle 'whole' is refused (2 faults):\n  - bundle.json: colour")
    assert "\n  - text.prompts: expected no such tensor" in said.err
    assert main(["task", "verify", str(whole), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert len(told["faults"]) == 2


def test_put_makes_a_task_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = save_frame(tmp_path / "a", "lines", scale=1), save_frame(tmp_path / "b", "lines", scale=2)
    store = tmp_path / "tasks"
    assert main(["task", "put", str(tmp_path / "a"), str(store), "--name", "birds"]) == 0
    assert capsys.readouterr().out == f"{store / 'birds'} {first.digest}\n"
    assert scan_store(store).bundles["birds"].digest == first.digest
    (store / "birds").rename(store / "older-folder")
    assert main(["task", "put", str(tmp_path / "b"), str(store), "--name", "birds"]) == 0
    scan = scan_store(store)
    assert ({name: one.digest for name, one in scan.bundles.items()}, scan.faults) == (
        {"birds": second.digest},
        {},
    )
    assert find_bundle(store, "birds").digest == second.digest
    assert main(["task", "put", str(tmp_path / "b"), str(store), "--name", "../out"]) == 2


def test_put_guesses_at_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        save_frame(tmp_path / "tasks" / folder, "lines")
    save_frame(tmp_path / "new", "lines")
    assert main(["task", "put", str(tmp_path / "new"), str(tmp_path / "tasks")]) == 2
    assert "expected one folder with that name, came one, two" in capsys.readouterr().err
    for name, came in (("lines", "two of lines"), ("line", "line; there are: lines")):
        with pytest.raises(StoreError, match=came):
            find_bundle(tmp_path / "tasks", name)


def test_preview_writes_a_png(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_frame(tmp_path / "task", "lines")
    monkeypatch.chdir(tmp_path)
    assert main(["task", "preview", "task"]) == 0
    assert capsys.readouterr().out == "lines-frame.png\n"
    with Image.open(tmp_path / "lines-frame.png") as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (20, 16))


def test_preview_with_a_picture_is_before_and_after(tmp_path: Path) -> None:
    save_frame(tmp_path / "task", "lines")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "in.jpg")
    out = tmp_path / "out.anything"
    arguments = ["task", "preview", str(tmp_path / "task"), "--picture", str(tmp_path / "in.jpg")]
    assert main([*arguments, "--out", str(out)]) == 0
    with Image.open(out) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (48, 16))


def test_frame_writes_the_very_picture_that_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = FrameSpec(canvas=(16, 20), inner=8, value_range="unit")
    delta = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(1)) * frame_mask(unit)
    bundle = save_bundle(
        tmp_path / "task", Manifest(name="lines", version="1", frame=unit), {"frame.delta": delta}
    )
    Image.new("RGB", (30, 30), "teal").save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    assert main(["task", "frame", "task", "in.png"]) == 0
    assert capsys.readouterr().out == "in-lines.png\n"
    with Image.open(tmp_path / "in-lines.png") as drawn, Image.open(tmp_path / "in.png") as picture:
        assert (drawn.format, drawn.size, drawn.mode) == ("PNG", (20, 16), "RGB")
        pixels = torch.from_numpy(np.array(drawn)).permute(2, 0, 1) / 255
        wanted = frame_picture(picture, unit, bundle.frame_delta)
    assert (pixels - wanted).abs().max() <= 1 / 510 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frame", "TASK", "in.png"], "error: frame.value_range: expected unit, came unbounded"),
        (["frame", "TASK", "none.png"], "error: picture: expected a file, came none"),
        (["preview", "TASK", "--picture", "none.png"], "error: picture: expected a file, came none"),
        (["preview", "TASK", "--picture", "TASK/bundle.json"], "error: picture: expected a picture"),
        (["preview", "TASK", "--out", "none/x.png"], "error: --out: expected a file to write"),
        (["show", "none"], "error: bundle 'none' is refused (1 fault):"),
    ],
)
def test_a_bad_argument_is_an_error_of_one_place(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_frame(tmp_path / "TASK", "lines")
    Image.new("RGB", (30, 30), "teal").save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    assert main(["task", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("arguments", [[], ["eat"], ["show"], ["show", "a", "--colour"]])
def test_misuse_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["task", *arguments])
    assert ended.value.code == 2
    assert "usage: passepartout task" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_crash(whole: Path) -> None:
    """As in `passepartout task show … | head`: no traceback, the status shells give a closed pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "passepartout", "task", "show", str(whole)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
