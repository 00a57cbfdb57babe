"""Where the project keeps what it builds: `models/` and `runs/`, under one folder that the user may move."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["home_folder", "model_folder", "run_folder", "written_whole"]


def home_folder() -> Path:
    """`PASSEPARTOUT_HOME`, by default the current folder."""
    return Path(os.environ.get("PASSEPARTOUT_HOME") or ".")


def model_folder(name: str) -> Path:
    """Where an embedded model is built by default."""
    return home_folder() / "models" / name


def run_folder(name: str) -> Path:
    """Where a job of ours keeps its log, checkpoints and results by default."""
    return home_folder() / "runs" / name


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Gives a draft beside `file` to write to, which takes its place at the end: whole or not at all."""
    draft = file.with_name(f"{file.name}.draft")
    yield draft
    draft.replace(file)
