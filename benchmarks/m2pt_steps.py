"""`m2pt-steps`: the M²PT trainer against the same method on `transformers.Trainer` with forward hooks."""

import argparse
from functools import partial

from benchmarks.m2pt_sides import SIDES
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say
from benchmarks.sides import Side, memory_figure, race, told_of

__all__ = ["QUESTION"]

_TEACHES = """\
The same model, examples in the same order, prompts (10 and 20 rows in every layer, mode released, projector
trained), loss over the answers, AdamW with the same rate, clipping; a round is as many steps on each side.
"Trainer with hooks" is what a careful user of transformers would write (benchmarks/m2pt_hooked.py): a frozen
LlavaForConditionalGeneration in the trainer's dtype, float32 parameters, prompt rows in front of BOS and CLS
that hooks write anew after every layer, a collator that pads, a process that makes batches ahead, the
Trainer's own loop. Its attention is transformers' default (sdpa), and on a third side eager, which is ours on
a CPU, where it is the faster one at this length. No side groups examples by length, checkpoints layers, logs
or saves. Each side runs in a process of its own, whose peak memory is read at the end (the Trainer's second
process is not counted). The sides' first losses are held against each other before anything is counted.
OMP_NUM_THREADS sets the threads of all sides.
Figure: steps per second of the trainer over those of the Trainer.
"""


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    told = told_of(options, say)
    ours, *others = SIDES
    starts = {name: partial(Side, partial(make, told)) for name, make in SIDES.items()}
    ran = race(starts, options, say, warmups=0)
    rounds, peaks = ran.rounds, ran.peaks
    figures = [
        figure
        for other in others
        for figure in (
            Figure.of_ratio(f"steps/s against the {other}", rounds.ratio(ours, other), 1.3),
            memory_figure(f"memory of the {other} over ours", peaks[other], peaks[ours], 1.0),
        )
    ]
    return QUESTION.found(options, figures, ran.raw)


QUESTION = Question(
    name="m2pt-steps",
    asks="the M²PT trainer, against the same method on transformers' Trainer with forward hooks",
    teaches=_TEACHES,
    rounds=5,
    run=_run,
    options={
        "batch": (8, "examples of a step"),
        "steps": (5, "steps of a round"),
        "examples": (40, "examples that are trained on, over and over"),
    },
)
