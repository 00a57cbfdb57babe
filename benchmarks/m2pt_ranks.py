"""`m2pt-ranks`: the M²PT trainer in two processes that share each batch, against one."""

import argparse
from functools import partial

from benchmarks.m2pt_sides import trainer
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say
from benchmarks.sides import Side, memory_figure, race, told_of

__all__ = ["QUESTION"]

_TEACHES = """\
The same job as in m2pt-steps, with the same batches: one process takes each of them whole; two, joined by
Gloo as torchrun joins them, take a half each and add up their gradients. Each process computes with one
thread. What two can gain is bounded by the machine: on two hyperthreads of one core they share its
arithmetic units, and a batch is as long in each half as its own longest example. The sides' first losses are
held against each other before anything is counted.
Figure: steps per second of two processes over those of one.
"""
_SIDES = {"one process": 1, "two processes": 2}


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    if options.batch % 2:
        raise ValueError(f"batch: expected an even number, for two processes, came {options.batch}")
    make = partial(trainer, told_of(options, say, threads=1))
    starts = {name: partial(Side, make, processes=count) for name, count in _SIDES.items()}
    ran = race(starts, options, say, warmups=0)
    rounds, peaks = ran.rounds, ran.peaks
    figures = [
        Figure.of_ratio("steps/s of two processes against one", rounds.ratio("two processes", "one process")),
        memory_figure("memory of both over that of the one", peaks["two processes"], peaks["one process"]),
    ]
    return QUESTION.found(options, figures, ran.raw)


QUESTION = Question(
    name="m2pt-ranks",
    asks="the M²PT trainer in two processes that share each batch, against one",
    teaches=_TEACHES,
    rounds=5,
    run=_run,
    options={
        "batch": (8, "examples of a step, for all processes together"),
        "steps": (5, "steps of a round"),
        "examples": (40, "examples that are trained on, over and over"),
    },
)
