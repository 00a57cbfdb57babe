"""Where the project keeps what it builds: models and runs, under one folder that the user may move."""

import os
from pathlib import Path

__all__ = ["home_folder", "model_folder"]


def home_folder() -> Path:
    """`PASSEPARTOUT_HOME`, by default `~/.cache/passepartout`."""
    return Path(os.environ.get("PASSEPARTOUT_HOME") or Path.home() / ".cache" / "passepartout")


def model_folder(name: str) -> Path:
    """Where an embedded model is built by default."""
    return home_folder() / "models" / name
