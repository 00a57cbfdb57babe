"""`idle`: what the plugin costs where no request names a task."""

import argparse

from benchmarks.engines import prompted, running_all, stock
from benchmarks.harness import alternate
from benchmarks.jobs import Batch
from benchmarks.materials import Shapes, find_model, make_requests
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say

__all__ = ["QUESTION"]

_TEACHES = """\
Two engines on the same checkpoint: stock vLLM (no plugin loaded) and vLLM with ours, no task resident. Both
get the same batch of requests of one picture each, new ones every round, and answer in a fixed length.
Figure: answer tokens per second of ours over those of stock, from the first request's preprocessing on.
"""


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    shapes = Shapes(model)
    say("starting two engines")
    with running_all(prompted(model, dtype=options.dtype), stock(model, dtype=options.dtype)) as engines:
        ours, theirs = engines

        def batch(number: int) -> Batch:
            requests = make_requests(
                shapes, round_number=number, count=options.batch, text_tokens=options.text_tokens
            )
            return Batch(requests=requests, tokens=options.tokens)

        rounds = alternate(
            {
                "ours": lambda number: ours.ask(batch(number)).tokens_per_second,
                "stock": lambda number: theirs.ask(batch(number)).tokens_per_second,
            },
            options.rounds,
            say=say,
        )
    figures = [Figure.of_ratio("tokens/s against stock", rounds.ratio("ours", "stock"), 0.98)]
    return QUESTION.found(options, figures, rounds.sides)


QUESTION = Question(
    name="idle",
    asks="the engine with the plugin and no task in the batch, against stock vLLM",
    teaches=_TEACHES,
    rounds=9,
    run=_run,
    options={
        "batch": (32, "requests at once"),
        "text_tokens": (32, "random text tokens of a request, beside its picture"),
        "tokens": (32, "tokens of each answer"),
    },
)
