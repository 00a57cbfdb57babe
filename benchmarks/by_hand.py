"""`transformers`: many tasks at once on the engine, against plain transformers, one task after the other."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.engines import Engine, by_hand, prompted, running_all
from benchmarks.harness import alternate
from benchmarks.jobs import Batch, Report
from benchmarks.materials import Shapes, find_model, make_requests, make_tasks
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say

__all__ = ["QUESTION"]

_TEACHES = """\
As many requests at once as there are random M²PT tasks. Our engine answers them in one batch; the other side
is what one would write by hand with transformers: a key-value cache, fused attention, prompts put in by
hooks, and one request after the other, since no two are of the same task. It gets all cores, computes no
gradients, and uses bfloat16 or float32, whichever a trial before the rounds finds faster.
Figure: answer tokens per second of ours over those of transformers. The JSON says how many answers are the
same on both sides to the last token.
"""
_DTYPES = ("bfloat16", "float32")


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    shapes = Shapes(model)
    with tempfile.TemporaryDirectory(prefix="benchmark-tasks-") as folder:
        bundles = make_tasks(model, Path(folder), options.concurrent)
        say("starting the engine, and transformers in two dtypes")
        hands = [by_hand(model, bundles=bundles, dtype=dtype) for dtype in _DTYPES]
        with running_all(prompted(model, bundles=bundles, dtype=options.dtype), *hands) as (ours, *others):

            def batch(number: int, count: int) -> Batch:
                requests = make_requests(
                    shapes,
                    round_number=number,
                    count=count,
                    text_tokens=options.text_tokens,
                    tasks=range(options.concurrent),
                )
                return Batch(requests=requests, tokens=options.tokens)

            for engine in (ours, *others):
                engine.check_tasks(batch(-1, 4))
            tried = [_tried(other, batch(0, 2)) for other in others]
            chosen = max(range(len(others)), key=lambda index: tried[index])
            say(f"by hand: {', '.join(f'{d} {t:.3g}' for d, t in zip(_DTYPES, tried, strict=True))} tokens/s")
            reports: dict[str, list[Report]] = {"ours": [], "by hand": []}

            def rate(side: str, number: int) -> float:
                engine = ours if side == "ours" else others[chosen]
                reports[side].append(engine.ask(batch(number, options.concurrent)))
                return reports[side][-1].tokens_per_second

            measures = {side: partial(rate, side) for side in reports}
            rounds = alternate(measures, options.rounds, say=say)
    figures = [Figure.of_ratio("tokens/s against transformers", rounds.ratio("ours", "by hand"), 8.0)]
    raw = {**rounds.sides, "by hand in": _DTYPES[chosen], "same answers": _same(reports)}
    return QUESTION.found(options, figures, raw)


def _tried(engine: Engine, batch: Batch) -> float:
    """Answer tokens per second, the second time it is asked."""
    engine.ask(batch)
    return engine.ask(batch).tokens_per_second


def _same(reports: dict[str, list[Report]]) -> str:
    ours, theirs = ([text for one in side for text in one.texts] for side in reports.values())
    return f"{sum(one == other for one, other in zip(ours, theirs, strict=True))} of {len(ours)}"


QUESTION = Question(
    name="transformers",
    asks="16 concurrent tasks, against plain transformers, one task after the other",
    teaches=_TEACHES,
    rounds=4,
    run=_run,
    options={
        "concurrent": (16, "requests at once, each of a task of its own"),
        "text_tokens": (32, "random text tokens of a request, beside its picture"),
        "tokens": (64, "tokens of each answer"),
    },
)
