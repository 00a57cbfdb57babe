"""What every training job does beside its loop: progress, log, plot, checkpoint, resume."""

import json
import math
import pickle
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from tqdm import tqdm

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.board import Board
from training.config import TrainConfig
from training.memory import peak_memory
from training.paths import written_whole
from training.ranks import ALONE, Ranks

__all__ = ["Run"]

CHECKPOINT_FILE, LOG_FILE, PLOT_FILE, COST_FILE = "checkpoint.pt", "log.jsonl", "loss.png", "cost.json"
BROKEN_FILE = "broken.json"
_FREE_FIELDS = {
    "out",
    "bundle",
    "gradient_checkpointing",
    "shard",
    "tensorboard",
    "canary",
    "checkpoint_every",
    "log_every",
    "max_broken_share",
    "version",
    "description",
    "validation",
}
_FORMAT = 3
"""Of checkpoints; grows when fields or parameter groups change, so that no old one is misread."""
_VALIDATED = {"validation_loss", "validation_accuracy"}
_NOT_PLOTTED = {"step", "time", "lr", "broken", "validation_accuracy"}
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Run:
    """A run folder: log, plot, `checkpoint.pt` (read with `weights_only=True`), and what it all cost.

    Of several processes the first alone writes and shows anything; all of them stop after the same step.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        self.config, self.folder, self.ranks = config, config.out, ranks
        if ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._history: list[dict[str, float]] = []
        self._stopping = self._all_stopping = False
        self._board: Board | None = None
        self._saved_steps = 0
        self._earlier_seconds = 0.0
        self._started = time.perf_counter()

    def resume(self) -> dict[str, Any] | None:
        """The state of an earlier start of the same job, or None; None in all processes but the first.

        Raises:
            ConfigError: the folder holds a checkpoint of another config, or one that cannot be read.
        """
        if not self.ranks.is_first:
            return None
        file = self.folder / CHECKPOINT_FILE
        if not file.is_file():
            for left in (LOG_FILE, BROKEN_FILE):
                (self.folder / left).unlink(missing_ok=True)
            return None
        saved = _read_checkpoint(file)
        changed = _differences(json.loads(saved["config"]), json.loads(self._identity()))
        if changed:
            cure = f"use another `out`, or remove {file} to begin anew"
            raise ConfigError("train", [f"{one}; {cure}" for one in changed])
        self._saved_steps = saved["step"]
        self._earlier_seconds = saved.get("seconds", 0.0)
        self._history = _read_log(self.folder / LOG_FILE, saved["step"])
        print(f"resuming {self.folder} at step {saved['step']} of {self.config.steps}")
        return saved

    def steps(self, start: int) -> Generator[tuple[int, "tqdm[Any]"], None, None]:
        """Step numbers with a progress bar.

        Ctrl-C (or SIGTERM) finishes the step, `is_due` then asks for a checkpoint, and KeyboardInterrupt is
        raised here once it is saved; a second Ctrl-C does not wait. Close the generator to give signals back.
        """
        with (
            self._interruptible(),
            self._open_board(start),
            tqdm(
                initial=start,
                total=self.config.steps,
                desc=self.config.name,
                disable=not self.ranks.is_first,
            ) as bar,
        ):
            for step in range(start, self.config.steps):
                yield step, bar
                bar.update()
                if self._all_stopping and self._saved_steps == step + 1:
                    self.tell(bar, f"stopped after step {step + 1}; the same command goes on from there")
                    raise KeyboardInterrupt

    def tell(self, bar: "tqdm[Any]", text: str) -> None:
        """Prints a line above the progress bar, once for all processes."""
        if self.ranks.is_first:
            bar.write(text)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step`: at intervals, at the end, and when stopping.

        All processes ask, and get the same answer: a signal to one of them stops all.
        """
        done, self._all_stopping = step + 1, self.ranks.any(self._stopping)
        return done % self.config.checkpoint_every == 0 or done == self.config.steps or self._all_stopping

    def log(self, step: int, bar: "tqdm[Any]", **figures: float) -> None:
        """Shows the figures, and writes a line of the log every `log_every` steps and of each validation.

        Raises:
            ConfigError: the loss is not finite; nothing learned after it would be worth anything.
        """
        if not math.isfinite(figures["loss"]):
            cure = f"lower lr; the last checkpoint (step {self._saved_steps}) is untouched"
            came = f"{figures['loss']} at step {step + 1}"
            raise ConfigError("train", [fault("loss", expected="a finite number", came=came, cure=cure)])
        bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()})
        is_due = (step + 1) % self.config.log_every == 0 or step in (0, self.config.steps - 1)
        if (is_due or _VALIDATED & figures.keys()) and self.ranks.is_first:
            if self._board is not None:
                self._board.write(step + 1, figures)
            line = {"step": step + 1, **figures, "time": round(time.time(), 2)}
            self._history.append(line)
            with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the checkpoint after `step`, whole or not at all."""
        self._saved_steps = step + 1
        if not self.ranks.is_first:
            return
        own = {"format": _FORMAT, "step": step + 1, "config": self._identity(), "seconds": self.seconds}
        with written_whole(self.folder / CHECKPOINT_FILE) as draft:
            torch.save({**own, **state}, draft)

    def note_broken(self, summary: Mapping[str, JsonValue]) -> None:
        """Writes `broken.json`: what was skipped so far (see `training.ledger`); nothing where it is {}."""
        if summary and self.ranks.is_first:
            with written_whole(self.folder / BROKEN_FILE) as draft:
                draft.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Wall seconds that the run has taken, earlier starts up to their last checkpoints included."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def finish(self) -> None:
        """Draws the plot and writes `cost.json`: `seconds`, and the most bytes held of memory and device.

        Of several processes the bytes are the first one's.
        """
        if not self.ranks.is_first:
            return
        self._plot()
        cost = {"seconds": round(self.seconds, 2), **peak_memory()}
        with written_whole(self.folder / COST_FILE) as draft:
            draft.write_text(json.dumps(cost) + "\n", encoding="utf-8")

    def _plot(self) -> None:
        """The log's losses over the steps; nothing where the log is gone."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if not self._history:
            return
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        names = dict.fromkeys(name for line in self._history for name in line)
        for name in [name for name in names if name not in _NOT_PLOTTED]:
            points = [(line["step"], line[name]) for line in self._history if name in line]
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set(xlabel="step", ylabel="loss", title=self.config.name)
        axes.legend()
        figure.savefig(self.folder / PLOT_FILE, dpi=120)

    def _identity(self) -> str:
        """What decides the trained values, as JSON: the validation data where the job looks at it."""
        decisive = {"validation"} if getattr(self.config, "validate_every", None) else set()
        return self.config.model_dump_json(exclude=_FREE_FIELDS - decisive)

    @contextmanager
    def _open_board(self, start: int) -> Iterator[None]:
        """While open the log's lines go to TensorBoard too, if the config says so."""
        if not self.config.tensorboard or not self.ranks.is_first:
            yield
            return
        self._board = Board(self.folder, begin=start)
        try:
            yield
        finally:
            self._board.close()
            self._board = None

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals belong to the main thread
            return
        before = {number: signal.signal(number, self._stop) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True


def _read_checkpoint(file: Path) -> dict[str, Any]:
    try:
        saved = torch.load(file, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        came, cure = str(error).partition("\n")[0], "remove it; the run then begins anew"
        problem = fault(str(file), expected="a checkpoint", came=came, cure=cure)
        raise ConfigError("train", [problem]) from error
    found = saved.get("format", 1) if isinstance(saved, dict) else None
    if found != _FORMAT:
        came = "other data" if found is None else f"format {found}"
        cure = "remove it; the run then begins anew"
        raise ConfigError(
            "train", [fault(str(file), expected=f"a checkpoint of format {_FORMAT}", came=came, cure=cure)]
        )
    return saved


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Each field that two configs do not share, as `field: expected …, came …`."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name}: expected {shown(old)} as the run began, came {shown(new)}")
    return found


def _read_log(file: Path, step: int) -> list[dict[str, float]]:
    """The log up to `step`; later lines (of a start that died before its checkpoint) are dropped."""
    if not file.is_file():
        return []
    lines = [_read_line(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line is not None and line["step"] <= step]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def _read_line(line: str) -> dict[str, float] | None:
    """None for the half line of a start that was killed while it wrote."""
    try:
        found: dict[str, float] = json.loads(line)
    except ValueError:
        return None
    return found
