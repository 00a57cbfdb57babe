"""`mixed`: what many tasks in one batch cost, beside the tokens they add."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.engines import prompted, running_all, stock
from benchmarks.harness import alternate
from benchmarks.jobs import Batch
from benchmarks.materials import M2PT_LENGTHS, Shapes, find_model, make_requests, make_tasks
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say

__all__ = ["QUESTION"]

_TEACHES = """\
As many random M²PT tasks as there are requests (10 text and 20 vision vectors each, and a projector), one
request each, in one batch. A prompt makes a request longer, which is its price with any server: so stock vLLM
gets as many ordinary tokens more, in front, always the same ones for the same place, so that its prefix cache
serves it as well as ours. What the prompts do to the vision tower is in the figure and not in stock's tokens.
Figures: answer tokens per second of ours over those of stock with the extra tokens; and over plain stock's.
"""
_OTHERS = 500
"""Added to a round's number: pictures that no cache of the longer requests' engine has seen."""


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    shapes = Shapes(model)
    with tempfile.TemporaryDirectory(prefix="benchmark-tasks-") as folder:
        bundles = make_tasks(model, Path(folder), options.tasks)
        say("starting two engines")
        specs = prompted(model, bundles=bundles, dtype=options.dtype), stock(model, dtype=options.dtype)
        with running_all(*specs) as (ours, theirs):

            def batch(number: int, *, with_tasks: bool, extra: int = 0) -> Batch:
                requests = make_requests(
                    shapes,
                    round_number=number,
                    count=options.tasks,
                    text_tokens=options.text_tokens,
                    tasks=range(options.tasks) if with_tasks else (None,),
                    extra=extra,
                )
                return Batch(requests=requests, tokens=options.tokens)

            ours.check_tasks(batch(-1, with_tasks=True))
            extra = sum(M2PT_LENGTHS)
            rounds = alternate(
                {
                    "ours": lambda number: ours.ask(batch(number, with_tasks=True)).tokens_per_second,
                    "stock, longer": lambda number: (
                        theirs.ask(batch(number, with_tasks=False, extra=extra)).tokens_per_second
                    ),
                    "stock": lambda number: (
                        theirs.ask(batch(_OTHERS + number, with_tasks=False)).tokens_per_second
                    ),
                },
                options.rounds,
                say=say,
            )
    figures = [
        Figure.of_ratio("tokens/s against stock, as long", rounds.ratio("ours", "stock, longer"), 0.97),
        Figure.of_ratio("tokens/s against stock, without the tokens", rounds.ratio("ours", "stock")),
    ]
    return QUESTION.found(options, figures, rounds.sides)


QUESTION = Question(
    name="mixed",
    asks="32 tasks mixed in one batch, against stock vLLM given as many ordinary tokens",
    teaches=_TEACHES,
    rounds=7,
    run=_run,
    options={
        "tasks": (32, "tasks, and requests at once"),
        "text_tokens": (32, "random text tokens of a request, beside its picture"),
        "tokens": (32, "tokens of each answer"),
    },
)
