"""Trains the frames of a report, each in a process of its own, so that its memory is its alone."""

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

from prompts.bundle import Bundle, load_bundle
from prompts.errors import ConfigError
from prompts.faults import fault
from training.config import TvpConfig

__all__ = ["Cost", "Trained", "train_frame"]

_BUNDLE, _COST, _JOB, _LOCK = "bundle", "cost.json", "job.yaml", "lock"
_CHECKPOINT = "checkpoint.pt"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Cost:
    """What a training took: wall seconds and the most bytes of memory (on a GPU: of the GPU's)."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Trained:
    """A finished frame; its cost is None where a run died before it was written."""

    bundle: Bundle
    cost: Cost | None


def train_frame(config: TvpConfig, folder: Path) -> Trained:
    """Trains a frame into `folder`, or reads it from there where it is done; goes on with one begun.

    Raises:
        ConfigError: the training failed, or another process is at it.
        KeyboardInterrupt: it was stopped; the same call goes on from there.
    """
    if not is_trained(folder):
        _train(config, folder)
    return Trained(load_bundle(folder / _BUNDLE), _read_cost(folder / _COST))


def is_trained(folder: Path) -> bool:
    """Whether `folder` holds a finished frame."""
    return (folder / _BUNDLE / "bundle.json").is_file()


def _train(config: TvpConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            came, cure = "another process that trains it", f"wait for it, or end it ({folder})"
            raise ConfigError(
                "report", [fault("train tvp", expected="a free frame", came=came, cure=cure)]
            ) from error
        file = _write_job(config, folder)
        command = [sys.executable, "-m", "passepartout", "train", "tvp", "--config", str(file)]
        # A session of its own: of Ctrl-C it hears once, from here. It holds the lock as long as it lives.
        process = subprocess.Popen(command, start_new_session=True, pass_fds=(lock.fileno(),))
        with _handing_on(process) as stopped:
            status = process.wait()
    if stopped:
        raise KeyboardInterrupt
    if status:
        came, cure = f"exit status {status}", f"look above; the job is {file}"
        raise ConfigError("report", [fault("train tvp", expected="a bundle", came=came, cure=cure)])


def _write_job(config: TvpConfig, folder: Path) -> Path:
    """The job's file. What was begun under another name or with models elsewhere begins anew."""
    job = config.model_copy(update={"out": folder, "bundle": folder / _BUNDLE})
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


def _read_cost(file: Path) -> Cost | None:
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return Cost(found["seconds"], found.get("peak_device_bytes", found["peak_bytes"]))
