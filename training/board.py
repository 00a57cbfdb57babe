"""A run's figures for TensorBoard: event files in the run folder, `tensorboard --logdir runs`.

tensorboardX writes them, a pure Python package; TensorBoard itself is needed by whoever looks.
"""

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

__all__ = ["Board"]

BOARD_FOLDER = "board"


class Board:
    """Writes into `<run folder>/board`; what an earlier start left of steps after `begin` is hidden."""

    def __init__(self, folder: Path, *, begin: int) -> None:
        self._writer = SummaryWriter(str(folder / BOARD_FOLDER), purge_step=begin + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a point to the curve of each figure; `step` counts from one."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is not yet on disk."""
        self._writer.close()
