"""A report's trainings: made once, in a folder named by what they are made from, and read again."""

from dataclasses import dataclass
from pathlib import Path

from prompts.bundle import Bundle, load_bundle
from training.baselines import Saved
from training.baselines.saved import read_saved
from training.config import BaselineConfig, M2ptConfig
from training.report.process import Cost, read_cost, train_apart

__all__ = ["Tuned", "read_tuned", "tune"]

_BUNDLE, _CHECKPOINT = "bundle", "checkpoint.pt"
_COUNTED = (".safetensors", ".json")


@dataclass(frozen=True)
class Tuned:
    """A finished training.

    Attributes:
        result: M²PT's bundle, or what a baseline saved.
        values: how many were learned.
        size: bytes of its safetensors and JSON on disk.
        cost: None where a run died before it was written.
    """

    result: Bundle | Saved
    values: int
    size: int
    cost: Cost | None

    @property
    def digest(self) -> str:
        """Of the learned values."""
        return self.result.digest


def tune(config: M2ptConfig | BaselineConfig, folder: Path) -> Tuned:
    """Trains into `folder`, or reads it from there where it is done; goes on with what was begun.

    Raises:
        ConfigError: the training failed, or another process is at it.
        KeyboardInterrupt: it was stopped; the same call goes on from there.
    """
    found = read_tuned(folder)
    if found is None:
        method = "baseline" if isinstance(config, BaselineConfig) else "m2pt"
        train_apart(method, config.model_copy(update={"out": folder}), folder)
        found = read_tuned(folder)
        assert found is not None, "a training that ended well left its result"
    (folder / _CHECKPOINT).unlink(missing_ok=True)  # full fine-tuning's holds each weight three times
    return found


def read_tuned(folder: Path) -> Tuned | None:
    """A finished training; None where there is none."""
    saved = read_saved(folder)
    if saved is not None:
        return Tuned(saved, saved.values, _size(saved.folder), read_cost(folder))
    if not (folder / _BUNDLE / "bundle.json").is_file():
        return None
    bundle = load_bundle(folder / _BUNDLE)
    return Tuned(bundle, sum(bundle.trained_values.values()), _size(folder / _BUNDLE), read_cost(folder))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in _COUNTED)
