"""Two processes of one job, started by torchrun: the same lesson as one, one log, one error."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prompts.bundle import Bundle, load_bundle
from prompts.errors import ConfigError
from tests.training.conftest import random_picture
from tests.training.jobs import m2pt_job, make_llava_json
from training.m2pt import train_m2pt
from training.ranks import ALONE, Ranks

ROOT = Path(__file__).resolve().parents[3]
STEPS, BATCH, FAILING_STEP = 4, 4, 2
SHARED = {"shard": True, "gradient_checkpointing": True}
ACCURATE = {"metric": "accuracy", "patience": 9, "canary": 0}
VISION_ALONE = {"text_length": 0, "projector": False}
REPARAMETRISED = {"reparametrisation": 4, "text_layers": "odd"}


@dataclass(frozen=True)
class Pair:
    """What two processes made of their jobs, and what they printed."""

    folder: Path
    pictures: Path
    model: Path
    printed: str

    def ends(self, job: str) -> list[list[str]]:
        return [json.loads((self.folder / f"{job}.{rank}.json").read_text()) for rank in range(2)]

    def checkpoint(self, job: str) -> dict[str, Any]:
        saved: dict[str, Any] = torch.load(self.folder / job / "checkpoint.pt", weights_only=True)
        return saved

    def bundle(self, job: str) -> Bundle:
        return load_bundle(self.folder / job / "bundle")


def job_of(model: Path, pictures: Path, out: Path, m2pt: dict[str, Any] | None = None, **changes: Any) -> Any:
    validation = {"kind": "image_folder", "root": str(pictures), "limit": 3}
    settings = {"steps": STEPS, "batch": BATCH, "validation": validation, "validate_every": 3}
    return m2pt_job(model, pictures, out, m2pt, **{**settings, **changes})


def blind_half(folder: Path) -> dict[str, Any]:
    """Four records, of which one has a picture: in every batch of four one of two processes has none."""
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    seen = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a heron"}]
    random_picture(1).save(folder / "a.png")
    records: list[dict[str, Any]] = [{"conversations": talk}] * 3
    file = make_llava_json(folder, [*records, {"image": "a.png", "conversations": seen}])
    return {"kind": "llava_json", "file": str(file), "images": str(folder)}


@pytest.fixture(scope="module")
def pair(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One start of torchrun for all tests: answers of different lengths, each picture used once."""
    folder = tmp_path_factory.mktemp("ranks")
    pictures = folder / "pictures"
    for place, name in enumerate(("heron", "seven", "water_bird_by_the_water", "owl")):
        (pictures / name).mkdir(parents=True)
        for number in range(STEPS):
            seed = 10 * place + number
            random_picture(seed, (70, 60)).save(pictures / name / f"{seed}.png")
    configs = {
        "two": job_of(tiny_folder, pictures, folder / "two"),
        "unbroken": job_of(tiny_folder, pictures, folder / "unbroken", REPARAMETRISED, **ACCURATE),
        "resumed": job_of(tiny_folder, pictures, folder / "resumed", REPARAMETRISED, **ACCURATE),
        "shared": job_of(tiny_folder, pictures, folder / "shared", **SHARED),
        "blind": job_of(
            tiny_folder, pictures, folder / "blind", VISION_ALONE, **SHARED, canary=0, data=blind_half(folder)
        ),
    }
    jobs: list[dict[str, Any]] = [{"config": config.model_dump(mode="json")} for config in configs.values()]
    jobs[2]["fails"] = FAILING_STEP
    odd = job_of(tiny_folder, pictures, folder / "odd", batch=3)
    (folder / "odd.yaml").write_text(yaml.safe_dump(odd.model_dump(mode="json")))
    command = ["train", "m2pt", "--config", str(folder / "odd.yaml")]
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs, "command": command}))
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = Path(__file__).with_name("ranks_worker.py")
    done = subprocess.run(
        [*line, str(worker), str(folder / "jobs.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0, done.stderr  # of the last command
    return Pair(folder, pictures, tiny_folder, done.stdout + done.stderr)


def test_two_processes_are_one_with_twice_the_batch(pair: Pair, tmp_path: Path) -> None:
    """`batch` is that of all processes; answers differ in length, so a mean of means would differ."""
    config = job_of(pair.model, pair.pictures, tmp_path / "one")
    train_m2pt(config)
    alone, both = (
        [
            value
            for line in (out / "log.jsonl").read_text().splitlines()
            for name, value in json.loads(line).items()
            if name in ("loss", "validation_loss")
        ]
        for out in (config.out, pair.folder / "two")
    )
    assert len(both) == 6  # four steps and two looks, written once
    assert both == pytest.approx(alone, rel=1e-4)
    one = torch.load(config.out / "checkpoint.pt", weights_only=True)
    two = pair.checkpoint("two")
    for place, state in one["optimizer"]["state"].items():
        torch.testing.assert_close(
            two["optimizer"]["state"][place]["exp_avg"], state["exp_avg"], atol=1e-5, rtol=1e-2
        )


def test_both_end_with_the_first_ones_bundle(pair: Pair) -> None:
    digest = pair.bundle("two").digest
    assert pair.ends("two") == [[digest], [digest]]
    assert sorted(path.name for path in (pair.folder / "two").iterdir()) == [
        "bundle",
        "checkpoint.pt",
        "cost.json",
        "log.jsonl",
        "loss.png",
    ]


def test_a_fault_in_one_ends_both_with_one_error(pair: Pair) -> None:
    (first, *_), (second, *_) = pair.ends("resumed")
    assert first == "SystemExit 1"
    assert second == "PictureError a picture that the second process alone cannot read"


def test_two_that_broke_half_way_end_as_the_unbroken_two(pair: Pair) -> None:
    """Bundle, learned tensors and the optimiser's state, bit for bit; with an MLP folded away."""
    unbroken, resumed = pair.checkpoint("unbroken"), pair.checkpoint("resumed")
    assert pair.bundle("resumed").digest == pair.bundle("unbroken").digest
    assert f"resuming {pair.folder / 'resumed'} at step {FAILING_STEP} of {STEPS}" in pair.printed
    assert "text.mlp.up.weight" in resumed["tensors"]
    for name, tensor in unbroken["tensors"].items():
        assert torch.equal(resumed["tensors"][name], tensor)
    for place, state in unbroken["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(resumed["optimizer"]["state"][place][name], tensor)


def test_a_model_shared_out_learns_the_same(pair: Pair) -> None:
    """FSDP of the decoder's layers, with checkpointing; measured, with its canary, and written once."""
    shared, kept = pair.checkpoint("shared"), pair.checkpoint("two")
    for place, state in kept["optimizer"]["state"].items():
        torch.testing.assert_close(shared["optimizer"]["state"][place]["exp_avg"], state["exp_avg"])
    assert pair.ends("shared") == [[pair.bundle("shared").digest]] * 2
    assert pair.bundle("shared").manifest.metrics == pair.bundle("two").manifest.metrics != {}
    held = [json.loads((pair.folder / f"share.{rank}.json").read_text()) for rank in range(2)]
    assert [share / whole for share, whole in held] == pytest.approx([0.5, 0.5], rel=0.02)
    assert all((pair.folder / job / "bundle" / "canary.json").is_file() for job in ("shared", "two"))


def test_a_process_without_a_picture_does_not_keep_the_others_waiting(pair: Pair, tmp_path: Path) -> None:
    """Vision prompts alone: nothing learned takes part in what the process without a picture computes."""
    config = job_of(pair.model, pair.pictures, tmp_path / "one", VISION_ALONE, data=blind_half(pair.folder))
    alone = train_m2pt(config)
    torch.testing.assert_close(
        pair.bundle("blind").tensors["vision.prompts"], alone.tensors["vision.prompts"], atol=1e-2, rtol=1e-2
    )


def test_a_batch_that_two_cannot_share_is_one_error(pair: Pair) -> None:
    said = "batch: expected a multiple of 2, the number of processes, came 3; change one of them"
    assert pair.printed.count(said) == 1


def test_parts_are_the_whole() -> None:
    whole = list(range(7))
    parts = [list(Ranks(rank, 3).part(whole)) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 3]
    assert [one for part in parts for one in part] == whole
    assert ALONE.part(whole) == whole


def test_one_process_agrees_with_itself() -> None:
    with pytest.raises(ConfigError, match="as it is"), ALONE.agreeing():
        raise ConfigError("train", ["as it is"])
    assert ALONE.total(3.5) == 3.5
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]
