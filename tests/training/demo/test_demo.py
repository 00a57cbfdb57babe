"""`passepartout demo --no-wait`, as a user runs it, with short trainings: the whole way over HTTP."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training.demo.lineup import LINEUP, examples_folder

pytestmark = pytest.mark.behaviour

SHIPPED = [entry.task for entry in LINEUP if entry.verb is None]
PICTURES_PER_TASK = 80
STEPS = 60
"""Too few for the frame to show a gain at so few pictures; every other task does."""
CLEAR_GAINS = ("category-quick", *SHIPPED)
LARGE_GAIN, LARGE_GAINS = 0.2, 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, pico_llava: Path
) -> tuple[Path, dict[str, dict[str, object]]]:
    """The demo's folder and its table by task."""
    out = tmp_path_factory.mktemp("demo")
    command = [
        sys.executable,
        "-m",
        "passepartout",
        "demo",
        "--no-wait",
        "--out",
        str(out),
        "--port",
        str(free_port()),
    ]
    command += ["--n", str(PICTURES_PER_TASK), "--steps", str(STEPS)]
    environment = {**os.environ, "PASSEPARTOUT_HOME": str(pico_llava.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=environment, check=False)
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]  # 1: the frame alone
    rows = json.loads((out / "demo.json").read_text(encoding="utf-8"))["tasks"]
    return out, {row["task"]: row for row in rows}


def test_every_task_of_the_lineup_is_served_and_measured(demo) -> None:
    _, rows = demo
    assert list(rows) == [entry.task for entry in LINEUP]
    assert all(row["tuned"]["n"] == row["base"]["n"] == PICTURES_PER_TASK for row in rows.values())
    assert len({row["digest"] for row in rows.values()}) == len(LINEUP)


@pytest.mark.parametrize("task", CLEAR_GAINS)
def test_a_task_beats_the_base_model_by_more_than_its_interval(demo, task: str) -> None:
    _, rows = demo
    base, tuned = rows[task]["base"], rows[task]["tuned"]
    noise = math.hypot((base["high"] - base["low"]) / 2, (tuned["high"] - tuned["low"]) / 2)
    assert tuned["accuracy"] - base["accuracy"] > noise


def test_shipped_tasks_gain_much(demo) -> None:
    _, rows = demo
    gains = [rows[task]["tuned"]["accuracy"] - rows[task]["base"]["accuracy"] for task in SHIPPED]
    assert sum(gain >= LARGE_GAIN for gain in gains) >= LARGE_GAINS


def test_pictures_of_every_task_are_written(demo) -> None:
    from PIL import Image

    out, rows = demo
    for task in rows:
        with Image.open(out / "pictures" / f"{task}.png") as sheet:
            assert sheet.width > 1000


def test_the_shipped_bundles_are_there() -> None:
    assert {path.name for path in (examples_folder() / "tasks").iterdir()} == set(SHIPPED)
