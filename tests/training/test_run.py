"""What a run keeps: a stopped run goes on as if it had never stopped, another config is refused."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts.bundle import Bundle
from prompts.errors import ConfigError
from tests.training.conftest import random_picture
from tests.training.jobs import m2pt_job, tvp_job
from training.batches import examples_of_pass
from training.data import ImageFolderData, make_source
from training.m2pt import train_m2pt
from training.run import Run
from training.tvp import train_tvp

STEPS, BATCH = 6, 2

METHODS: dict[str, tuple[Callable[[Any], Bundle], Callable[..., Any], dict[str, Any]]] = {
    "tvp": (train_tvp, tvp_job, {"lambda_fca": 0.005}),
    "m2pt": (train_m2pt, m2pt_job, {}),
}


def make_pictures(root: Path) -> Path:
    """Twelve pictures: each is used once in six steps of two."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(STEPS):
            random_picture(number, (70, 60)).save(root / name / f"{number}.png")
    return root


def picture_of_step(root: Path, step: int) -> Path:
    """A file that the batch of `step` (from 0) reads."""
    source = make_source(ImageFolderData(kind="image_folder", root=root))
    example = examples_of_pass(source, number=step, batch=BATCH, seed=42)[0]
    assert example.picture is not None
    paths = [
        path
        for path in (root / example.answer).iterdir()
        if random_picture(int(path.stem), (70, 60)).tobytes() == example.picture.tobytes()
    ]
    assert len(paths) == 1
    return paths[0]


def saved_step(folder: Path) -> int:
    step: int = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    return step


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_broke_half_way_ends_as_the_unbroken_one(
    tiny_folder: Path, tmp_path: Path, method: str
) -> None:
    """A picture of step 4 is one broken too many: the run stops, and goes on once the file is whole again."""
    train, job, options = METHODS[method]
    pictures = make_pictures(tmp_path / "pictures")
    unbroken = train(job(tiny_folder, pictures, tmp_path / "unbroken", options, steps=STEPS))

    broken = picture_of_step(pictures, 3)
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    config = job(tiny_folder, pictures, tmp_path / "broken", options, steps=STEPS)
    with pytest.raises(ConfigError, match=rf"came 1 of 12; .*\n.*{broken.name}"):
        train(config)
    assert saved_step(config.out) == 3
    assert not config.bundle_folder.exists()
    with (config.out / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss": 1.0, "time": 0}\n{"step": 5, "lo')  # of a start that was killed

    broken.write_bytes(whole)
    resumed = train(config)
    assert resumed.digest == unbroken.digest
    assert resumed.tensors.keys() == unbroken.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], unbroken.tensors[name]) for name in unbroken.tensors)
    assert logged(config.out) == logged(tmp_path / "unbroken")
    assert [line["step"] for line in logged(config.out)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint(tiny_folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Far from any interval: the signal alone is why there is a checkpoint, and it misses no step."""
    pictures = make_pictures(tmp_path / "pictures")
    settings = {"steps": 100_000, "checkpoint_every": 100_000}
    config = m2pt_job(tiny_folder, pictures, tmp_path / "out", **settings)
    before = signal.getsignal(number)
    thread = threading.Thread(target=send_when_logged, args=(config.out / "log.jsonl", number))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train_m2pt(config)
    thread.join()
    assert saved_step(config.out) == logged(config.out)[-1]["step"] >= 3
    assert signal.getsignal(number) is before
    assert not [one for one in threading.enumerate() if one.name.startswith("batches")]


def send_when_logged(log: Path, number: signal.Signals) -> None:
    while not log.is_file() or log.read_text().count("\n") < 3:
        time.sleep(0.01)
    os.kill(os.getpid(), number)


def test_a_signal_between_two_checkpoints_waits_for_the_next_step(tiny_folder: Path, tmp_path: Path) -> None:
    """It comes after `is_due` was asked: stopping there would lose the steps since the last checkpoint."""
    run = Run(m2pt_job(tiny_folder, tmp_path, tmp_path / "out", steps=50, checkpoint_every=50))
    done = []

    def train() -> None:
        for step, _ in run.steps(0):
            if run.is_due(step):
                run.save(step, {})
            if step == 4:
                signal.raise_signal(signal.SIGINT)
            done.append(step)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert done == [0, 1, 2, 3, 4, 5]
    assert saved_step(run.folder) == 6


def test_a_second_signal_does_not_wait(tiny_folder: Path, tmp_path: Path) -> None:
    run = Run(m2pt_job(tiny_folder, tmp_path, tmp_path / "out", steps=50))
    steps = run.steps(0)
    next(steps)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    steps.close()


def checkpointed(config: Any) -> Any:
    Run(config).save(0, {})
    return config


def test_another_config_is_refused_field_by_field(tiny_folder: Path, tmp_path: Path) -> None:
    checkpointed(m2pt_job(tiny_folder, tmp_path, tmp_path / "out"))
    other = m2pt_job(tiny_folder, tmp_path, tmp_path / "out", {"text_length": 5}, steps=9)
    with pytest.raises(ConfigError) as caught:
        Run(other).resume()
    assert [fault.partition(";")[0] for fault in caught.value.faults] == [
        "steps: expected 3 as the run began, came 9",
        "m2pt.text_length: expected 3 as the run began, came 5",
    ]
    assert all("use another `out`" in fault for fault in caught.value.faults)


def test_what_does_not_change_the_result_may_change(tiny_folder: Path, tmp_path: Path) -> None:
    config = checkpointed(m2pt_job(tiny_folder, tmp_path, tmp_path / "out"))
    other = config.model_copy(update={"log_every": 7, "checkpoint_every": 5, "description": "new"})
    state = Run(other).resume()
    assert state is not None
    assert state["step"] == 1


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_checkpoint_that_cannot_be_read_is_named(tiny_folder: Path, tmp_path: Path, content: bytes) -> None:
    run = Run(m2pt_job(tiny_folder, tmp_path, tmp_path / "out"))
    (run.folder / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: expected a checkpoint.*, came .*; remove it"):
        run.resume()


def test_a_loss_that_is_not_finite_ends_the_run(tiny_folder: Path, tmp_path: Path) -> None:
    run = Run(m2pt_job(tiny_folder, tmp_path, tmp_path / "out"))
    steps = run.steps(0)
    step, bar = next(steps)
    with pytest.raises(ConfigError, match="loss: expected a finite number, came nan at step 1; lower lr"):
        run.log(step, bar, loss=float("nan"))
    steps.close()
    assert not (run.folder / "log.jsonl").exists()


def test_a_finished_run_writes_its_bundle_again(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    config = tvp_job(tiny_folder, picture_folder, tmp_path / "out", steps=1)
    first = train_tvp(config)
    (config.out / "log.jsonl").unlink()
    again = train_tvp(config.model_copy(update={"bundle": tmp_path / "elsewhere", "version": "2"}))
    assert (again.digest, again.path, again.version) == (first.digest, tmp_path / "elsewhere", "2")
