"""Where the project keeps what it builds: `models/` and `runs/`, under one folder that the user may move."""

import os
from pathlib import Path

__all__ = ["home_folder", "model_folder", "run_folder"]


def home_folder() -> Path:
    """`PASSEPARTOUT_HOME`, by default the current folder."""
    return Path(os.environ.get("PASSEPARTOUT_HOME") or ".")


def model_folder(name: str) -> Path:
    """Where an embedded model is built by default."""
    return home_folder() / "models" / name


def run_folder(name: str) -> Path:
    """Where a job of ours keeps its log, checkpoints and results by default."""
    return home_folder() / "runs" / name
