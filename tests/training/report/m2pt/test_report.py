"""`passepartout report m2pt` on a tiny model: made once, gone on with, faults told before it begins."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from passepartout import main
from tests.training.jobs import QUESTION
from training.report.m2pt import tuned

METHODS = ["none", "full", "lora-1", "prompt-tuning", "m2pt"]


@pytest.fixture(scope="module")
def config(tiny_folder: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    pictures = {"kind": "image_folder", "root": str(picture_folder), "question": QUESTION}
    told: dict[str, Any] = {
        "model": str(tiny_folder),
        "train": pictures,
        "unseen": {"birds": pictures, "digits": {**pictures, "question": "which digit?"}},
        "seen": {"things": {**pictures, "limit": 3}},
        "methods": METHODS,
        "rates": dict.fromkeys([*METHODS[1:], "text", "lora-4"], 0.01),
        "seeds": [0],
        "recipe": {"steps": 2, "batch": 2, "text_length": 3, "vision_length": 2, "dtype": "float32"},
        "out": str(folder / "out" / "tiny.md"),
        "cache": str(folder / "cache"),
    }
    file = folder / "report.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Trainings begun, as (method of `train`, name), in this process: starting another costs seconds."""
    begun: list[tuple[str, str]] = []

    def here(method: str, config: Any, folder: Path) -> None:
        from training.baselines import train_baseline
        from training.m2pt import train_m2pt

        begun.append((method, config.name))
        (train_baseline if method == "baseline" else train_m2pt)(config)

    monkeypatch.setattr(tuned, "train_apart", here)
    return begun


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_it_is_made_once_and_only_what_is_new_is_added(config: Path, started: list[tuple[str, str]]) -> None:
    assert main(["report", "m2pt", "--config", str(config)]) == 0
    kinds = ["baseline", "baseline", "baseline", "m2pt"]
    assert started == list(zip(kinds, METHODS[1:], strict=True))
    report = config.parent / "out" / "tiny.md"
    first = report.read_text(encoding="utf-8")
    rows = {line.split("**")[1]: line.split(" | ") for line in first.splitlines() if line.startswith("| **")}
    assert list(rows) == METHODS
    assert "within 3 points of full fine-tuning" in first
    cache = config.parent / "cache"
    assert not list(cache.glob("tuned/*/checkpoint.pt"))
    assert len(list(cache.glob("answers/*.json"))) == len(METHODS) * 3

    times = {file: file.stat().st_mtime_ns for file in cache.glob("answers/*.json")}
    assert main(["report", "m2pt", "--config", str(config)]) == 0
    assert report.read_text(encoding="utf-8") == first
    assert len(started) == 4
    assert {file: file.stat().st_mtime_ns for file in cache.glob("answers/*.json")} == times

    assert main(["report", "m2pt", "--config", str(config), "--set", "methods=[none, text, m2pt]"]) == 0
    assert started[4:] == [("m2pt", "text")]


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_interrupted_one_goes_on(
    config: Path, started: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopped in its second training: the command ends as by Ctrl-C, and the first is not made again."""
    train = tuned.train_apart

    def stop(method: str, told: Any, folder: Path) -> None:
        if started:
            raise KeyboardInterrupt
        train(method, told, folder)

    arguments = ["report", "m2pt", "--config", str(config), "--set", f"cache={tmp_path}"]
    arguments += ["--set", "methods=[lora-1, m2pt]", "--set", f"out={tmp_path / 'tiny.md'}"]
    with monkeypatch.context() as patch:
        patch.setattr(tuned, "train_apart", stop)
        assert main(arguments) == 130
    assert started == [("baseline", "lora-1")]
    assert not (tmp_path / "tiny.md").exists()
    assert main(arguments) == 0
    assert started[1:] == [("m2pt", "m2pt")]
    assert (tmp_path / "tiny.md").exists()


def test_the_plan_trains_nothing(
    config: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--set", "lengths={text: [1], vision: [0, 2]}", "--plan"]
    assert main(["report", "m2pt", "--config", str(config), *more]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "full · seed 0"
    assert printed[-2:] == ["m2pt · seed 0 · 1 text and 2 vision rows", "6 trainings, 19 measurements"]
    assert started == []


def test_what_does_not_fit_is_told_before_anything_is_trained(
    config: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "unseen.digits.limit": 4,
        "seen.things.root": "nowhere",
        "recipe.init_text": "hello there, how are you?",
        "notes": "nowhere.md",
    }
    settings = [one for field, value in wrong.items() for one in ("--set", f"{field}={value}")]
    assert main(["report", "m2pt", "--config", str(config), *settings]) == 2
    printed = capsys.readouterr().err
    assert "- recipe.text_length: expected " in printed
    assert "- unseen: expected as many test examples of every task, came 9 of birds, 4 of digits" in printed
    assert "- seen.things: root: expected a folder" in printed
    assert "- notes: expected a Markdown file, came no nowhere.md" in printed
    assert started == []
