"""TensorBoard's event files: the log's figures, also of a run that was resumed."""

import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.training.jobs import m2pt_job
from training.board import Board
from training.m2pt import train_m2pt


def events(folder: Path) -> list[Event]:
    """TFRecords: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    found = []
    for file in sorted((folder / "board").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def points(folder: Path) -> list[tuple[int, str, float]]:
    return [
        (one.step, value.tag, value.simple_value) for one in events(folder) for value in one.summary.value
    ]


def test_the_logs_figures_are_in_the_event_files(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "out", tensorboard=True)
    train_m2pt(config)
    logged = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    expected = [(line["step"], name, line[name]) for line in logged for name in ("loss", "lr")]
    found = points(config.out)
    assert [(step, name) for step, name, _ in found] == [(step, name) for step, name, _ in expected]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in expected], rel=1e-5)
    quiet = m2pt_job(tiny_folder, picture_folder, tmp_path / "quiet", steps=1)
    train_m2pt(quiet)
    assert not (quiet.out / "board").exists()


def test_a_resumed_run_hides_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    board = Board(tmp_path, begin=3)
    board.write(4, {"loss": 1.0})
    board.close()
    starts = [one.step for one in events(tmp_path) if one.session_log.status == 1]  # START
    assert starts == [4]
    assert points(tmp_path) == [(4, "loss", 1.0)]
