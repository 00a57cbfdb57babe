"""Sides of a question about training, each in processes of its own, and what they are asked."""

import os
import socket
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.harness import Measure, Rounds, alternate, ratio_of
from benchmarks.materials import find_model
from benchmarks.outcome import Figure
from benchmarks.question import Say

__all__ = ["Race", "Side", "Step", "Told", "check_losses", "memory_figure", "race", "rates_of", "told_of"]

Step = Callable[[], float]
"""Makes one step of training and returns its loss."""
_MEGABYTE = 1e6
_SAME = 0.02


@dataclass(frozen=True)
class Told:
    """What every side is told.

    `dtype`: our trainer's; `threads`: of each of a side's processes, None: as many as torch takes.
    """

    model: Path
    batch: int
    examples: int
    dtype: str
    threads: int | None = None


@dataclass(frozen=True)
class Race:
    """What came of `race`. `peaks`: side -> bytes; `raw`: all that was measured, for the outcome."""

    rounds: Rounds
    peaks: dict[str, int]
    raw: dict[str, Any]


class Side:
    """A side in a process of its own, whose peak memory is its alone; or in several, as torchrun starts them.

    `make` makes the side's step, in each of its processes: a function of a module, or a partial of one.
    """

    def __init__(self, make: Callable[[], Step], *, processes: int = 1) -> None:
        context = get_context("spawn")
        port = _free_port()
        self._pipes, self._processes = [], []
        for rank in range(processes):
            pipe, theirs = context.Pipe()
            told = _environment(rank, processes, port)
            process = context.Process(target=_serve, args=(make, told, theirs))
            process.start()
            theirs.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def losses(self, steps: int) -> list[float]:
        """The losses of the next steps, as the first process sees them.

        Raises:
            RuntimeError: the side has ended.
        """
        found = self._ask(("losses", steps))[0]
        assert isinstance(found, list)
        return found

    def rate(self, steps: int) -> float:
        """Steps per second over the next steps.

        Raises:
            RuntimeError: the side has ended.
        """
        return float(self._ask(("rate", steps))[0])

    def peak(self) -> int:
        """The most bytes that its processes have held, added up.

        Raises:
            RuntimeError: the side has ended.
        """
        return sum(self._ask(("peak", 0)))

    def _ask(self, question: tuple[str, int]) -> list[Any]:
        try:
            for pipe in self._pipes:
                pipe.send(question)
            return [pipe.recv() for pipe in self._pipes]
        except (EOFError, OSError) as error:
            raise RuntimeError("a side's process ended; what it printed says why") from error

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(30)
            process.kill()


def told_of(options: Namespace, say: Say, *, threads: int | None = None) -> Told:
    """What the sides are told by a question's options."""
    model = find_model(options.model, say)
    return Told(model, options.batch, options.examples, options.dtype, threads)


def race(starts: Mapping[str, Callable[[], Side]], options: Namespace, say: Say, *, warmups: int = 1) -> Race:
    """Starts the sides, holds their first losses against each other, and times `options.rounds` rounds.

    Raises:
        RuntimeError: the sides do not compute the same, or one has ended.
    """
    with ExitStack() as stack:
        sides = {name: stack.enter_context(start()) for name, start in starts.items()}
        losses = {name: side.losses(options.steps) for name, side in sides.items()}
        check_losses(losses, say)
        rounds = alternate(rates_of(sides, options.steps), options.rounds, warmups=warmups, say=say)
        peaks = {name: side.peak() for name, side in sides.items()}
    megabytes = {name: peak / _MEGABYTE for name, peak in peaks.items()}
    return Race(rounds, peaks, {**rounds.sides, "peak megabytes": megabytes, "first losses": losses})


def rates_of(sides: Mapping[str, Side], steps: int) -> dict[str, Measure]:
    """What `alternate` takes: a round of each side is `steps` steps."""

    def rate(side: Side, _: int) -> float:
        return side.rate(steps)

    return {name: partial(rate, side) for name, side in sides.items()}


def memory_figure(label: str, theirs: int, ours: int, at_least: float | None = None) -> Figure:
    """How many times our peak theirs is; both in bytes."""
    ratio = ratio_of([theirs], [ours])
    shown = f"{ratio.median:.2f} ({theirs / _MEGABYTE:,.0f} over {ours / _MEGABYTE:,.0f} MB)"
    return Figure(label=label, shown=shown, value=ratio.median, at_least=at_least)


def check_losses(losses: Mapping[str, Sequence[float]], say: Say) -> None:
    """All sides must be learning the same: their first losses differ by rounding alone.

    Raises:
        RuntimeError: they do not.
    """
    say("first losses: " + " · ".join(f"{name} {found[0]:.4f}" for name, found in losses.items()))
    reference, *others = [found[0] for found in losses.values()]
    if not all(abs(one - reference) <= _SAME * abs(reference) for one in others):
        raise RuntimeError(f"the sides do not compute the same loss: {dict(losses)}")


def _serve(make: Callable[[], Step], environment: Mapping[str, str], pipe: Any) -> None:
    """Answers `losses` (of n steps), `rate` (steps per second of n) and `peak` (bytes), to the pipe's end."""
    os.environ.update(environment)
    from training.memory import keep_freed_memory, peak_memory
    from training.ranks import open_ranks

    keep_freed_memory()
    with open_ranks():
        step = make()
        while True:
            try:
                asked, count = pipe.recv()
            except EOFError:
                return
            if asked == "losses":
                pipe.send([step() for _ in range(count)])
            elif asked == "rate":
                started = time.perf_counter()
                for _ in range(count):
                    step()
                pipe.send(count / (time.perf_counter() - started))
            else:
                pipe.send(peak_memory()["peak_bytes"])


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process; nothing to one that is alone."""
    if processes == 1:
        return {}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), **place}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
