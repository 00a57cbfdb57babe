"""`tvp-steps`: the TVP trainer against a plain loop that does what the released code does, step for step."""

import argparse
from functools import partial

from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say
from benchmarks.sides import Side, memory_figure, race, told_of
from benchmarks.tvp_sides import SIDES

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


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    told = told_of(options, say)
    ran = race({name: partial(Side, partial(make, told)) for name, make in SIDES.items()}, options, say)
    rounds, peaks = ran.rounds, ran.peaks
    figures = [
        Figure.of_ratio("steps/s against the plain loop", rounds.ratio("trainer", "plain"), 1.5),
        Figure.of_ratio(
            "steps/s against the plain loop, first epoch", rounds.ratio("trainer, first epoch", "plain"), 1.5
        ),
        memory_figure("memory of the plain loop over the trainer's", peaks["plain"], peaks["trainer"], 1.0),
        Figure.of_ratio("steps/s against the careful loop", rounds.ratio("trainer", "careful")),
        memory_figure("memory of the careful loop over the trainer's", peaks["careful"], peaks["trainer"]),
    ]
    return QUESTION.found(options, figures, ran.raw)


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
