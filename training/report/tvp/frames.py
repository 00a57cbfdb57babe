"""Trains the frames of a report, or reads those that are done."""

from dataclasses import dataclass
from pathlib import Path

from prompts.bundle import Bundle, load_bundle
from training.config import TvpConfig
from training.report.process import Cost, read_cost, train_apart

__all__ = ["Trained", "is_trained", "train_frame"]

_BUNDLE = "bundle"


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
    return Trained(load_bundle(folder / _BUNDLE), read_cost(folder))


def is_trained(folder: Path) -> bool:
    """Whether `folder` holds a finished frame."""
    return (folder / _BUNDLE / "bundle.json").is_file()


def _train(config: TvpConfig, folder: Path) -> None:
    train_apart("tvp", config.model_copy(update={"out": folder, "bundle": folder / _BUNDLE}), folder)
