"""A frame's training in a process of its own: stopped, gone on with, not begun twice, and what it cost."""

import fcntl
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from prompts.errors import ConfigError
from tests.training.jobs import tvp_job
from training.config import TvpConfig
from training.report.process import Cost
from training.report.tvp.frames import train_frame

pytestmark = pytest.mark.behaviour
FEW, MANY = 4, 100_000


@pytest.fixture
def job(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> TvpConfig:
    return tvp_job(tiny_folder, picture_folder, tmp_path / "elsewhere", steps=MANY, canary=0)


def stop_when_begun(folder: Path, number: signal.Signals) -> None:
    """Sends this process a signal, as a terminal or `docker stop` would, once a step is in the log."""

    def wait() -> None:
        while not (folder / "log.jsonl").is_file():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_with_a_checkpoint_and_goes_on(
    job: TvpConfig, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "frame"
    before = signal.getsignal(number)
    stop_when_begun(folder, number)
    with pytest.raises(KeyboardInterrupt):
        train_frame(job, folder)
    assert signal.getsignal(number) == before
    assert (folder / "checkpoint.pt").is_file()
    assert not (folder / "bundle").exists()
    begun = len((folder / "log.jsonl").read_text().splitlines())
    (folder / "checkpoint.pt").rename(tmp_path / "kept.pt")  # a run of 100,000 steps is not gone on with
    done = train_frame(job.model_copy(update={"steps": FEW}), folder)
    assert begun >= 1
    assert done.cost is not None
    assert done.cost.seconds > 0
    assert done.cost.peak_bytes > 100e6


def test_what_another_process_trains_is_left_to_it(job: TvpConfig, tmp_path: Path) -> None:
    (tmp_path / "frame").mkdir()
    with (tmp_path / "frame" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="expected a free folder, came another process that trains it"):
            train_frame(job, tmp_path / "frame")


def test_a_finished_frame_is_read_and_a_lost_cost_is_no_zero(job: TvpConfig, tmp_path: Path) -> None:
    folder, short = tmp_path / "frame", job.model_copy(update={"steps": FEW})
    first = train_frame(short, folder)
    written = (folder / "bundle" / "bundle.json").stat().st_mtime_ns
    (folder / "cost.json").write_text(json.dumps({"seconds": 5.0, "peak_bytes": 7, "peak_device_bytes": 3}))
    again = train_frame(short, folder)
    assert (again.bundle.digest, again.cost) == (first.bundle.digest, Cost(5.0, 3))
    (folder / "cost.json").unlink()
    assert train_frame(short, folder).cost is None
    assert (folder / "bundle" / "bundle.json").stat().st_mtime_ns == written


def test_a_job_that_fails_says_where_to_look(job: TvpConfig, tmp_path: Path) -> None:
    gone = job.model_copy(update={"model": tmp_path / "gone"})
    with pytest.raises(
        ConfigError, match=r"train tvp: expected a training that ends well, came exit status 2; .*job\.yaml"
    ):
        train_frame(gone, tmp_path / "frame")


def test_a_frame_begun_under_another_name_begins_anew(job: TvpConfig, tmp_path: Path) -> None:
    folder = tmp_path / "frame"
    stop_when_begun(folder, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_frame(job, folder)
    done = train_frame(job.model_copy(update={"steps": FEW, "name": "other"}), folder)
    assert done.bundle.name == "other"
