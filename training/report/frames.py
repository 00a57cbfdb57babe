"""Trains the frames of a report, each in a process of its own, so that its time and memory are its alone."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from prompts.bundle import Bundle, load_bundle
from prompts.errors import ConfigError
from prompts.faults import fault
from training.config import TvpConfig

__all__ = ["Cost", "Trained", "train_frame"]

_BUNDLE, _COST, _JOB = "bundle", "cost.json", "job.yaml"
_KILOBYTE = 1024


@dataclass(frozen=True)
class Cost:
    """What a training took: wall seconds and the most bytes of memory its process held."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Trained:
    """A finished frame."""

    bundle: Bundle
    cost: Cost


def train_frame(config: TvpConfig, folder: Path) -> Trained:
    """Trains a frame into `folder`, or reads it from there where it is done; goes on with one begun.

    Raises:
        ConfigError: the training failed.
        KeyboardInterrupt: it was stopped; the same call goes on from there.
    """
    if not (folder / _BUNDLE / "bundle.json").is_file():
        _train(config, folder)
    return Trained(load_bundle(folder / _BUNDLE), _read_cost(folder / _COST))


def _train(config: TvpConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    job = config.model_copy(update={"out": folder, "bundle": folder / _BUNDLE})
    file = folder / _JOB
    file.write_text(yaml.safe_dump(job.model_dump(mode="json"), allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "passepartout", "train", "tvp", "--config", str(file)]
    before = _read_cost(folder / _COST)
    process = subprocess.Popen(command)
    status, usage, seconds = _wait(process)
    cost = Cost(before.seconds + seconds, max(before.peak_bytes, usage))
    (folder / _COST).write_text(json.dumps(asdict(cost)) + "\n", encoding="utf-8")
    if status in (130, -2):
        raise KeyboardInterrupt
    if status:
        came, cure = f"exit status {status}", f"look above; the job is {file}"
        raise ConfigError("report", [fault("train tvp", expected="a bundle", came=came, cure=cure)])


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, float]:
    """Exit status, peak resident bytes and wall seconds of a child; Ctrl-C reaches it by the terminal."""
    started = time.perf_counter()
    while True:
        try:
            _, state, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            continue  # the child finishes its step and writes a checkpoint
        process.returncode = os.waitstatus_to_exitcode(state)
        return process.returncode, usage.ru_maxrss * _KILOBYTE, time.perf_counter() - started


def _read_cost(file: Path) -> Cost:
    if not file.is_file():
        return Cost(0.0, 0)
    return Cost(**json.loads(file.read_text(encoding="utf-8")))
