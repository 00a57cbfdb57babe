"""Looks at validation data while a job runs: the best values kept, an early end, all of it resumable."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.training.conftest import CLASSES, random_picture
from tests.training.jobs import QUESTION, halt_at, m2pt_job
from training.backbone import LlavaBackbone
from training.config import M2ptConfig
from training.data import ImageFolderData, make_source
from training.m2pt import train_m2pt
from training.m2pt.learned import Layout, Learned
from training.m2pt.validation import Watch


def watched(model: Path, pictures: Path, out: Path, m2pt: Any = None, **changes: Any) -> M2ptConfig:
    validation = {"kind": "image_folder", "root": str(pictures), "question": QUESTION}
    settings = {"validation": validation, "validate_every": 2, **changes}
    return m2pt_job(model, pictures, out, m2pt, **settings)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def checkpoint(config: M2ptConfig) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(config.out / "checkpoint.pt", weights_only=True)
    return saved


@pytest.mark.parametrize(
    ("metric", "values", "kept", "stops"),
    [
        ("loss", [3.0, 2.0, 2.5, 2.0], 2.0, [False, False, False, True]),
        ("loss", [3.0, 3.5, 2.0, 2.5], 2.0, [False, False, False, False]),
        ("accuracy", [0.1, 0.4, 0.4, 0.3], 0.4, [False, False, False, True]),
    ],
)
def test_a_watch_keeps_the_best_and_ends_after_two_that_are_not_better(
    tmp_path: Path, metric: str, values: list[float], kept: float, stops: list[bool]
) -> None:
    config = watched(tmp_path, tmp_path, tmp_path, metric=metric, patience=2, steps=8)
    watch, learned = Watch(config), Learned({"text.prompts": torch.zeros(1)}, Layout(None, None), config)
    assert [step for step in range(8) if watch.is_due(step)] == [1, 3, 5, 7]
    found = []
    for place, value in enumerate(values):
        learned.tensors["text.prompts"].fill_(value)
        assert watch.look(2 * place + 1, value, learned) == {f"validation_{metric}": value}
        watch = Watch(config, watch.state())  # as a resumed run has it
        found.append(watch.stopped)
    assert found == stops
    watch.take_best(learned)
    assert learned.tensors["text.prompts"].item() == pytest.approx(kept)
    assert watch.state()["step"] == 2 * values.index(kept) + 2
    assert str(watch) == f"best validation {metric} {kept:g} after step {watch.state()['step']}"


def test_the_last_step_is_looked_at_too(tmp_path: Path) -> None:
    watch = Watch(watched(tmp_path, tmp_path, tmp_path, steps=5))
    assert [step for step in range(5) if watch.is_due(step)] == [1, 3, 4]
    never = Watch(m2pt_job(tmp_path, tmp_path, tmp_path))
    assert not any(never.is_due(step) for step in range(5))
    assert not never.stopped


def test_the_bundle_gets_the_best_values(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path
) -> None:
    """Learning to say heron makes sevens worse: the values of an early look are kept, and measured right."""
    for name in ("heron", "seven"):
        shutil.copytree(picture_folder / name, tmp_path / name / name)
    data = {"kind": "image_folder", "root": str(tmp_path / "heron"), "question": QUESTION}
    settings: dict[str, Any] = {"data": data, "lr": 0.05, "warmup": 0.0, "steps": 6, "log_every": 6}
    config = watched(tiny_folder, tmp_path / "seven", tmp_path / "out", **settings)
    bundle = train_m2pt(config)
    logged = {line["step"]: line.get("validation_loss") for line in lines(config.out)}
    assert list(logged) == [1, 2, 4, 6]
    losses = {int(step): loss for step, loss in logged.items() if loss is not None}
    best = min(losses, key=lambda step: losses[step])
    assert best < 6
    saved = checkpoint(config)
    assert (saved["watch"]["step"], saved["watch"]["value"]) == (best, losses[best])
    assert torch.equal(bundle.tensors["text.prompts"], saved["watch"]["tensors"]["text.prompts"].bfloat16())
    assert not torch.equal(bundle.tensors["text.prompts"], saved["tensors"]["text.prompts"].bfloat16())

    learned = Learned(saved["watch"]["tensors"], Layout(None, None), config)
    source = make_source(ImageFolderData(kind="image_folder", root=tmp_path / "seven", question=QUESTION))
    examples = [source[place] for place in range(len(source))]
    with torch.no_grad():
        features = tiny.image_features(
            tiny.process([one.picture for one in examples if one.picture is not None]), learned.deep()
        )
        encoded = [tiny.encode_example(one, config.usage) for one in examples]
        whole = tiny.answer_loss(tiny.collate(encoded, features), features, learned.deep())
    assert losses[best] == pytest.approx(whole.item(), rel=1e-4)


def test_a_job_that_gets_no_better_ends_early(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rate next to nothing: the accuracy stays, two looks of patience end the job at the third."""
    settings: dict[str, Any] = {"usage": {"choices": [name.replace("_", " ") for name in CLASSES]}}
    settings |= {"metric": "accuracy", "patience": 2, "lr": 1e-9, "steps": 50}
    config = watched(tiny_folder, picture_folder, tmp_path / "out", **settings)
    bundle = train_m2pt(config)
    looks = [line["validation_accuracy"] for line in lines(config.out) if "validation_accuracy" in line]
    assert len(looks) == 3
    assert len(set(looks)) == 1
    metrics: Any = bundle.manifest.metrics["validation"]
    assert looks[0] == metrics["task"]["accuracy"]
    assert checkpoint(config)["step"] == 6
    assert "stopped after step 6: best validation accuracy" in capfd.readouterr().out
    again = train_m2pt(config.model_copy(update={"bundle": tmp_path / "again"}))
    assert again.digest == bundle.digest
    assert lines(config.out)[-1]["step"] == 6


def test_a_watched_run_that_broke_ends_as_the_unbroken_one(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """Tensors, optimiser and the best values so far, bit for bit; through an MLP."""
    seen = tmp_path / "seen"
    (seen / "a").mkdir(parents=True)
    random_picture(99).save(seen / "a" / "99.png")
    validation = {"kind": "image_folder", "root": str(seen), "question": "?"}
    configs = [
        watched(
            tiny_folder,
            picture_folder,
            tmp_path / name,
            {"reparametrisation": 4},
            steps=6,
            validation=validation,
        )
        for name in ("unbroken", "broken")
    ]
    unbroken = train_m2pt(configs[0])
    halt_at(3, train_m2pt, configs[1])
    assert (checkpoint(configs[1])["step"], checkpoint(configs[1])["watch"]["step"]) == (3, 2)
    assert train_m2pt(configs[1]).digest == unbroken.digest
    one, other = (flat(checkpoint(config)) for config in configs)
    assert one.keys() == other.keys()
    assert {"tensors.text.mlp.up.weight", "watch.tensors.text.prompts"} <= one.keys()
    assert any(name.startswith("optimizer.state.0.exp_avg") for name in one)
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


def flat(saved: Any, prefix: str = "") -> dict[str, Any]:
    """A checkpoint's values by their dotted names, but for what differs between any two runs."""
    if isinstance(saved, dict):
        parts = [flat(value, f"{prefix}{name}.") for name, value in saved.items()]
        found = {name: value for part in parts for name, value in part.items()}
        return {name: value for name, value in found.items() if name not in ("seconds", "config")}
    return {prefix.removesuffix("."): saved}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"validation": None}, "validation: expected data for validate_every, came none"),
        ({"validate_every": None, "patience": 2}, "validate_every: expected steps for patience, came none"),
    ],
)
def test_settings_that_lack_their_other_half(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        watched(tmp_path, tmp_path, tmp_path, **settings)
