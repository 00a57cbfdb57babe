"""A report's trainings, each in a process of its own, so that its memory is its alone."""

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from prompts.errors import ConfigError
from prompts.faults import fault
from training.config import TrainConfig

__all__ = ["Cost", "read_cost", "train_apart"]

_COST, _JOB, _LOCK, _CHECKPOINT = "cost.json", "job.yaml", "lock", "checkpoint.pt"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Cost:
    """What a training took: wall seconds and the most bytes of memory (on a GPU: of the GPU's)."""

    seconds: float
    peak_bytes: int


def train_apart(method: str, config: TrainConfig, folder: Path) -> None:
    """`passepartout train METHOD` of a config whose `out` is `folder`; goes on with what was begun there.

    Raises:
        ConfigError: the training failed, or another process is at it.
        KeyboardInterrupt: it was stopped; the same call goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    field = f"train {method}"
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            came, cure = "another process that trains it", f"wait for it, or end it ({folder})"
            raise ConfigError(
                "report", [fault(field, expected="a free folder", came=came, cure=cure)]
            ) from error
        file = _write_job(config, folder)
        command = [sys.executable, "-m", "passepartout", "train", method, "--config", str(file)]
        # A session of its own: of Ctrl-C it hears once, from here. It holds the lock as long as it lives.
        process = subprocess.Popen(command, start_new_session=True, pass_fds=(lock.fileno(),))
        with _handing_on(process) as stopped:
            status = process.wait()
    if stopped:
        raise KeyboardInterrupt
    if status:
        came, cure = f"exit status {status}", f"look above; the job is {file}"
        raise ConfigError(
            "report", [fault(field, expected="a training that ends well", came=came, cure=cure)]
        )


def read_cost(folder: Path) -> Cost | None:
    """What the training in `folder` took; None where a run died before that was written."""
    file = folder / _COST
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return Cost(found["seconds"], found.get("peak_device_bytes", found["peak_bytes"]))


def _write_job(job: TrainConfig, folder: Path) -> Path:
    """The job's file. What was begun under another name or with models elsewhere begins anew."""
    file = folder / _JOB
    text = yaml.safe_dump(job.model_dump(mode="json"), allow_unicode=True)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        (folder / _CHECKPOINT).unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")
    return file


@contextmanager
def _handing_on(process: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """While open the stop signals go on to a child; yields those that came."""
    came: list[int] = []

    def hand_on(number: int, _: object) -> None:
        came.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in _STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
