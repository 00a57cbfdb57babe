"""`tvp-steps`: the TVP trainer against a plain loop that does what the released code does, step for step."""

import argparse
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from typing import Any

from benchmarks.harness import alternate, ratio_of
from benchmarks.materials import find_model
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say
from benchmarks.tvp_sides import SIDES, Told, serve_side

__all__ = ["QUESTION"]

_TEACHES = """\
The same model, pictures, answers and losses (task, FCA, TSE) on every side; a round is as many steps on each.
"plain" is the loop one would write from the paper: transformers' own forward pass with labels in float32, the
tower once more for the features, the clean features and CLIP's captions anew in every step, gradients left
on for all weights. "careful" is the same loop in the trainer's dtype and with frozen weights. The trainer
runs twice: as in the first epoch, where every picture is new to it (and in any, with random crops), and as in
those after it, where the clean features are kept. Each side runs
in a process of its own, whose peak memory is read at the end. The sides' first losses are held against each
other before anything is counted.
Figure: steps per second of the trainer over those of the loop.
"""
_MEGABYTE = 1e6
_SAME = 0.02


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    told = Told(
        model=find_model(options.model, say),
        batch=options.batch,
        examples=options.examples,
        dtype=options.dtype,
    )
    with ExitStack() as stack:
        sides = {name: stack.enter_context(_Side(name, told)) for name in SIDES}
        losses = {name: side.ask(("losses", options.steps)) for name, side in sides.items()}
        _check(losses, say)
        measures = {name: partial(_rate, side, options.steps) for name, side in sides.items()}
        rounds = alternate(measures, options.rounds, say=say)
        peaks = {name: side.ask(("peak", 0)) for name, side in sides.items()}
    figures = [
        Figure.of_ratio("steps/s against the plain loop", rounds.ratio("trainer", "plain"), 1.5),
        Figure.of_ratio(
            "steps/s against the plain loop, first epoch", rounds.ratio("trainer, first epoch", "plain"), 1.5
        ),
        _memory("memory of the plain loop over the trainer's", peaks["plain"], peaks["trainer"], 1.0),
        Figure.of_ratio("steps/s against the careful loop", rounds.ratio("trainer", "careful")),
        _memory("memory of the careful loop over the trainer's", peaks["careful"], peaks["trainer"]),
    ]
    raw = {**rounds.sides, "peak megabytes": {name: peak / _MEGABYTE for name, peak in peaks.items()}}
    return QUESTION.found(options, figures, {**raw, "first losses": losses})


def _rate(side: "_Side", steps: int, number: int) -> float:
    rate = side.ask(("rate", steps))
    assert isinstance(rate, float)
    return rate


def _memory(label: str, theirs: int, ours: int, at_least: float | None = None) -> Figure:
    ratio = ratio_of([theirs], [ours])
    shown = f"{ratio.median:.2f} ({theirs / _MEGABYTE:,.0f} over {ours / _MEGABYTE:,.0f} MB)"
    return Figure(label=label, shown=shown, value=ratio.median, at_least=at_least)


def _check(losses: dict[str, list[float]], say: Say) -> None:
    """All sides must be learning the same: their first losses differ by rounding alone.

    Raises:
        RuntimeError: they do not.
    """
    say("first losses: " + " · ".join(f"{name} {found[0]:.4f}" for name, found in losses.items()))
    first = [found[0] for found in losses.values()]
    if max(first) - min(first) > _SAME * abs(first[0]):
        raise RuntimeError(f"the sides do not compute the same loss: {losses}")


class _Side:
    """A side in a process of its own: its peak memory is its alone."""

    def __init__(self, name: str, told: Told) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve_side, args=(name, told, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: tuple[str, int]) -> Any:
        """One answer of the side.

        Raises:
            RuntimeError: it ended.
        """
        self._pipe.send(question)
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a side's process ended; what it printed says why") from error

    def __enter__(self) -> "_Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(30)
        self._process.kill()


QUESTION = Question(
    name="tvp-steps",
    asks="the TVP trainer, against a plain loop that computes what the released code does",
    teaches=_TEACHES,
    rounds=5,
    run=_run,
    options={
        "batch": (8, "pictures of a step"),
        "steps": (5, "steps of a round"),
        "examples": (40, "pictures that are trained on, over and over"),
    },
)
