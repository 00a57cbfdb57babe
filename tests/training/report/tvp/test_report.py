"""`passepartout report tvp` on tiny models: every study, again out of the cache, and with one seed more."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from passepartout import main
from tests.engine.tiny_families import make_tiny_idefics3
from tests.training.jobs import FRAME
from training.config import TvpConfig
from training.report.tvp import frames

pytestmark = pytest.mark.behaviour


@pytest.fixture(scope="module")
def config(
    tiny_folder: Path, tiny_clip: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    pictures = {"kind": "image_folder", "root": str(picture_folder)}
    told: dict[str, Any] = {
        "models": {"llava": str(tiny_folder), "idefics": str(make_tiny_idefics3(folder / "idefics"))},
        "sources": ["llava"],
        "tasks": {"birds": {"train": pictures, "test": pictures}},
        "seeds": [0],
        "recipe": {"clip": str(tiny_clip), "steps": 1, "batch": 2, "frame": FRAME, "dtype": "float32"},
        "ablation": {"methods": ["ensemble"]},
        "scale": {"task": "birds", "source": "llava", "shares": [0.5], "examples": 6},
        "corruption": {"task": "birds", "source": "llava", "kinds": ["fog"], "severities": [1]},
        "out": str(folder / "out"),
        "cache": str(folder / "cache"),
    }
    file = folder / "report.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TvpConfig]:
    """The trainings that were begun."""
    begun: list[TvpConfig] = []
    train = frames._train

    def record(config: TvpConfig, folder: Path) -> None:
        begun.append(config)
        train(config, folder)

    monkeypatch.setattr(frames, "_train", record)
    return begun


def test_it_is_made_once_and_only_what_is_new_is_added(config: Path, started: list[TvpConfig]) -> None:
    assert main(["report", "tvp", "--config", str(config)]) == 0
    report = config.parent / "out" / "report.md"
    first = report.read_text(encoding="utf-8")
    assert len(started) == 4  # EVP, TVP, an ensemble, TVP on half of the data
    assert "| llava | idefics | mean over black boxes |" in first
    assert "## Under common corruptions" in first
    assert "| evp | 1 of 1 | " in first

    answers = {file.name: file.stat().st_mtime_ns for file in (config.parent / "cache" / "answers").iterdir()}
    assert main(["report", "tvp", "--config", str(config)]) == 0
    assert report.read_text(encoding="utf-8") == first
    assert len(started) == 4
    again = {file.name: file.stat().st_mtime_ns for file in (config.parent / "cache" / "answers").iterdir()}
    assert again == answers

    more = ["--set", "seeds=[0, 1]", "--set", "ablation=null", "--set", "scale=null"]
    assert main(["report", "tvp", "--config", str(config), *more]) == 0
    assert len(started) == 6


def test_the_plan_trains_nothing(
    config: Path, started: list[TvpConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "tvp", "--config", str(config), "--plan"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "evp · llava · birds · seed 0"
    assert printed[-1] == "4 frames, 16 measurements"
    assert started == []


def test_a_model_that_is_not_there_is_told_before_anything_is_trained(
    config: Path, started: list[TvpConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = ["--set", "models.gone=nowhere", "--set", "tasks.birds.test.root=nowhere"]
    assert main(["report", "tvp", "--config", str(config), *gone]) == 2
    printed = capsys.readouterr().err
    assert "- models.gone: expected a checkpoint folder" in printed
    assert "- tasks.birds.test: root: expected a folder" in printed
    assert started == []
