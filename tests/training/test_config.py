"""A job's config: unknown keys, wrong types, missing files and bad settings, each named, all at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from prompts.errors import ConfigError
from tests.training.jobs import m2pt_job, tvp_job
from training.config import EvaluateConfig, M2ptConfig, TvpConfig, read_config
from training.m2pt import train_m2pt
from training.preflight import open_evaluation, open_training

SMALLEST: dict[str, Any] = {
    "name": "birds",
    "model": "models/m",
    "out": "runs/r",
    "steps": 5,
    "data": {"kind": "image_folder", "root": "pictures"},
}


def write(folder: Path, content: Any) -> Path:
    file = folder / "job.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def faults_of(kind: type[Any], file: Path, *settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_config(kind, file, settings)
    return caught.value.faults


def test_the_smallest_config_is_filled_with_defaults(tmp_path: Path) -> None:
    config = read_config(M2ptConfig, write(tmp_path, SMALLEST))
    assert (config.lr, config.warmup, config.batch, config.seed) == (7e-4, 0.03, 16, 42)
    assert config.bundle_folder == Path("runs/r/bundle")
    assert config.m2pt.mode == "released"


def test_settings_change_fields_at_any_depth(tmp_path: Path) -> None:
    file = write(tmp_path, {**SMALLEST, "m2pt": None, "version": 2})
    settings = ["m2pt.text_length=4", "data.root=elsewhere", "lr=1e-3", "usage.choices=[a, b]"]
    config = read_config(M2ptConfig, file, settings)
    assert (config.m2pt.text_length, config.lr, config.version) == (4, 1e-3, "2")
    assert config.usage.choices == ("a", "b")
    assert config.data.root == Path("elsewhere")


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    broken = {
        **SMALLEST,
        "name": "Not A Name",
        "steps": "many",
        "lr": float("inf"),
        "seed": -1,
        "learning_rate": 1,
        "data": {"kind": "image_folder"},
        "m2pt": {"mode": "other"},
    }
    faults = faults_of(M2ptConfig, write(tmp_path, broken), "nothing", "name.part=1", "out={")
    named = [fault.partition(": ")[0] for fault in faults]
    assert named == [
        "--set",
        "--set name.part",
        "--set out",
        "name",
        "data.image_folder.root",
        "steps",
        "seed",
        "lr",
        "m2pt.mode",
        "learning_rate",
    ]
    assert all("expected" in fault and "came" in fault for fault in faults)


@pytest.mark.parametrize("choices", ["[a]", "null"])
def test_a_loss_over_choices_needs_two(tmp_path: Path, choices: str) -> None:
    file = write(tmp_path, SMALLEST)
    faults = faults_of(M2ptConfig, file, "loss_over=choices", f"usage.choices={choices}")
    assert any("expected two usage.choices at least" in fault for fault in faults)
    assert read_config(M2ptConfig, file, ["loss_over=choices", "usage.choices=[a, b]"]).loss_over == "choices"


def test_a_ranking_is_for_frames(tmp_path: Path) -> None:
    faults = faults_of(M2ptConfig, write(tmp_path, SMALLEST), "loss_over=ranking")
    assert any("expected vocabulary or choices, came ranking" in fault for fault in faults)


@pytest.mark.parametrize("setting", ["", "=1", ".a=1", "a.=1", "lr"])
def test_a_setting_that_is_none(tmp_path: Path, setting: str) -> None:
    (fault,) = faults_of(M2ptConfig, write(tmp_path, SMALLEST), setting)
    assert fault.startswith("--set: expected KEY=VALUE")


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "\x00"])
def test_a_file_that_holds_no_mapping(tmp_path: Path, content: str) -> None:
    (fault,) = faults_of(M2ptConfig, write(tmp_path, content))
    assert fault.startswith("--config: expected ")


def test_a_missing_file_and_a_bad_setting_together(tmp_path: Path) -> None:
    faults = faults_of(M2ptConfig, tmp_path / "none.yaml", "lr")
    assert [fault.partition(": ")[0] for fault in faults] == ["--config", "--set"]
    assert "No such file" in faults[0]


def test_tvp_needs_a_clip_for_tse(tmp_path: Path) -> None:
    file = write(tmp_path, {**SMALLEST, "tvp": {}})
    (fault,) = faults_of(TvpConfig, file)
    assert fault.startswith("tvp: expected clip: FOLDER")
    assert read_config(TvpConfig, file, ["tvp.lambda_tse=0"]).tvp.clip is None


def test_m2pt_must_learn_something(tmp_path: Path) -> None:
    nothing = {"text_length": 0, "vision_length": 0, "projector": False}
    (fault,) = faults_of(M2ptConfig, write(tmp_path, {**SMALLEST, "m2pt": nothing}))
    assert fault.startswith("m2pt: expected something to learn")


def test_every_path_is_looked_at_before_the_job_starts(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("mine")
    config = tvp_job(
        tmp_path / "model",
        tmp_path / "pictures",
        tmp_path / "out",
        bundle=str(tmp_path / "bundle"),
        validation={"kind": "llava_json", "file": str(tmp_path / "talks.json"), "images": str(tmp_path)},
    )
    with pytest.raises(ConfigError) as caught:
        open_training(
            config,
            checkpoints=[("model", config.model, ()), ("tvp.clip", tmp_path / "clip", ("clip",))],
            pictures=True,
        )
    named = [fault.partition(": expected")[0] for fault in caught.value.faults]
    assert named == ["out", "bundle", "model", "tvp.clip", "data: root", "validation: file"]
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "mine"


def test_a_checkpoint_of_another_kind_is_no_base(
    tiny_clip: Path, picture_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match="model: expected a checkpoint folder of type llava, came type clip"
    ):
        train_m2pt(m2pt_job(tiny_clip, picture_folder, tmp_path / "out"))


def test_an_evaluations_paths_are_looked_at_too(tmp_path: Path) -> None:
    data = {"kind": "image_folder", "root": str(tmp_path / "none")}
    config = EvaluateConfig.model_validate({"model": str(tmp_path), "data": data})
    with pytest.raises(ConfigError) as caught:
        open_evaluation(config)
    assert [fault.partition(": expected")[0] for fault in caught.value.faults] == ["model", "data: root"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected model or server, came neither"),
        ({"model": "m", "server": "http://x"}, "expected model or server, came both"),
        ({"model": "m", "task": "t"}, "expected a server for task, came a model"),
        ({"model": "m", "served_model": "n"}, "expected a server for served_model, came a model"),
        ({"server": "http://x", "bundle": "b"}, "expected a model for bundle, came a server"),
    ],
)
def test_an_evaluation_asks_one_engine(given: dict[str, str], message: str) -> None:
    data = {"kind": "pico", "task": "name", "size": 3}
    with pytest.raises(ValidationError, match=message):
        EvaluateConfig.model_validate({"data": data, **given})
