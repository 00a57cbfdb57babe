"""`passepartout demo --no-wait`, exactly as a user runs it: the whole way over HTTP."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from training.demo.command import main
from training.demo.lineup import LINEUP, examples_folder

pytestmark = [pytest.mark.behaviour, pytest.mark.timeout(2400)]

SHIPPED = [entry.task for entry in LINEUP if entry.verb is None]
PICTURES_PER_TASK = 100
LARGE_GAIN, LARGE_GAINS = 0.2, 2
PATIENCE_SECONDS = 2100


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_to_end(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run`, but a demo that takes too long is asked to stop, so that it stops its server."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            said, errors = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            said, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


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
    environment = {**os.environ, "PASSEPARTOUT_HOME": str(pico_llava.parents[1])}
    done = run_to_end(command, environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads((out / "demo.json").read_text(encoding="utf-8"))["tasks"]
    return out, {row["task"]: row for row in rows}


def test_every_task_of_the_lineup_is_served_and_measured(demo) -> None:
    _, rows = demo
    assert list(rows) == [entry.task for entry in LINEUP]
    assert all(row["tuned"]["n"] == row["base"]["n"] == PICTURES_PER_TASK for row in rows.values())
    assert len({row["digest"] for row in rows.values()}) == len(LINEUP)


@pytest.mark.parametrize("task", [entry.task for entry in LINEUP])
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


@pytest.mark.parametrize("option", ["--n", "--steps"])
def test_nothing_to_ask_or_to_train_is_refused_at_once(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert f"argument {option}: expected 1 or more, came 0" in capsys.readouterr().err


def test_the_shipped_bundles_are_there() -> None:
    assert {path.name for path in (examples_folder() / "tasks").iterdir()} == set(SHIPPED)
