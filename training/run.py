"""What every training job does beside its loop: progress, log, plot, checkpoint, resume, provenance."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.manifest import Provenance
from training.config import TrainConfig

__all__ = ["Run", "provenance"]

CHECKPOINT_FILE, LOG_FILE, PLOT_FILE = "checkpoint.pt", "log.jsonl", "loss.png"
_LIBRARIES = ("torch", "transformers", "passepartout-serve")
_FREE_FIELDS = {"out", "bundle", "checkpoint_every", "log_every"}


class Run:
    """A run folder: `log.jsonl`, `loss.png` and `checkpoint.pt` (read with `weights_only=True`)."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.folder = config, config.out
        self.folder.mkdir(parents=True, exist_ok=True)
        self._history: list[dict[str, float]] = []
        self._stopping = False

    def resume(self) -> dict[str, Any] | None:
        """The state of an earlier start of the same job, or None.

        Raises:
            ConfigError: the folder holds a checkpoint of another config.
        """
        file = self.folder / CHECKPOINT_FILE
        if not file.is_file():
            (self.folder / LOG_FILE).unlink(missing_ok=True)
            return None
        saved: dict[str, Any] = torch.load(file, weights_only=True)
        if saved["config"] != self._identity():
            cure = f"use another `out` or remove {self.folder}"
            expected, came = "an empty run folder or one of the same config", "a checkpoint of another config"
            raise ConfigError("train", [fault("out", expected=expected, came=came, cure=cure)])
        self._history = _read_log(self.folder / LOG_FILE, saved["step"])
        print(f"resuming {self.folder} at step {saved['step']} of {self.config.steps}")
        return saved

    def steps(self, start: int) -> Iterator[tuple[int, "tqdm[Any]"]]:
        """Step numbers with a progress bar; Ctrl-C finishes the step, and the caller saves a checkpoint."""
        with (
            self._interruptible(),
            tqdm(initial=start, total=self.config.steps, desc=self.config.name) as bar,
        ):
            for step in range(start, self.config.steps):
                yield step, bar
                bar.update()
                if self._stopping:
                    raise KeyboardInterrupt

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step`: at intervals, at the end, and when stopping."""
        done = step + 1
        return done % self.config.checkpoint_every == 0 or done == self.config.steps or self._stopping

    def log(self, step: int, bar: "tqdm[Any]", **figures: float) -> None:
        """Shows the figures, and writes a line of the log every `log_every` steps."""
        bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()})
        if (step + 1) % self.config.log_every == 0 or step in (0, self.config.steps - 1):
            line = {"step": step + 1, **figures, "time": round(time.time(), 2)}
            self._history.append(line)
            with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the checkpoint after `step`, whole or not at all."""
        draft = self.folder / (CHECKPOINT_FILE + ".draft")
        torch.save({"step": step + 1, "config": self._identity(), **state}, draft)
        draft.replace(self.folder / CHECKPOINT_FILE)

    def plot(self) -> None:
        """Draws the log's losses over the steps."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        steps = [line["step"] for line in self._history]
        for name in [key for key in self._history[-1] if key not in ("step", "time", "lr")]:
            axes.plot(steps, [line[name] for line in self._history], label=name)
        axes.set(xlabel="step", ylabel="loss", title=self.config.name)
        axes.legend()
        figure.savefig(self.folder / PLOT_FILE, dpi=120)

    def _identity(self) -> str:
        return self.config.model_dump_json(exclude=_FREE_FIELDS)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals belong to the main thread
            return

        def stop(*_: object) -> None:
            self._stopping = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def provenance(config: TrainConfig, method: str) -> Provenance:
    """Where a bundle comes from: config, seed, libraries, commit, time."""
    settings = config.model_dump(mode="json")
    return Provenance(
        method=method,
        data=settings["data"],
        seed=config.seed,
        config=settings,
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
        commit=_commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read_log(file: Path, step: int) -> list[dict[str, float]]:
    """The log up to `step`; later lines (of a start that died before its checkpoint) are dropped."""
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line["step"] <= step]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, where the code runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
