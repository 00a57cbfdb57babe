"""`prefix`: whether a task's prompt rows are computed once or for every request."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.engines import Engine, prompted, running
from benchmarks.jobs import Batch, Report
from benchmarks.materials import Shapes, find_model, make_requests, make_tasks
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say

__all__ = ["QUESTION"]

_TEACHES = """\
Random tasks whose prompt fills whole blocks of the KV cache. A round is a task: its first request, then a
second one with another picture and another text; vLLM's own counter (prefix_cache_hits) is read after each.
Figure: prompt rows that the second request took out of the cache, as a share of all prompt rows. Nothing is
timed. A block is 32 tokens here; vLLM's default is 128 on a CPU and 16 on a GPU, and only whole blocks are
shared.
"""
_HITS = "vllm:prefix_cache_hits"


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    shapes = Shapes(model)
    with tempfile.TemporaryDirectory(prefix="benchmark-tasks-") as folder:
        lengths = (options.block * options.blocks, 0)
        bundles = make_tasks(model, Path(folder), options.rounds, lengths=lengths)
        say("starting the engine")
        spec = prompted(
            model,
            bundles=bundles,
            dtype=options.dtype,
            block_size=options.block,
            disable_log_stats=False,
            enforce_eager=True,  # nothing is timed
        )
        with running(spec) as engine:
            first, second = [], []
            for task in range(options.rounds):
                first.append(_hits(engine, shapes, task, 2 * task))
                second.append(_hits(engine, shapes, task, 2 * task + 1))
                say(f"task {task}: of {lengths[0]} rows cached at first {first[-1]}, then {second[-1]}")
    rows = lengths[0] * options.rounds
    figures = [
        Figure(
            label="prompt rows spared, 2nd request",
            shown=_share(second, rows),
            value=sum(second) / rows,
            at_least=1.0,
        ),
        Figure(label="prompt rows spared, 1st request", shown=_share(first, rows), value=sum(first) / rows),
    ]
    return QUESTION.found(options, figures, {"first": first, "second": second})


def _hits(engine: Engine, shapes: Shapes, task: int, number: int) -> int:
    """Tokens that this request took out of the prefix cache, by vLLM's counters and its own account."""
    before = engine.facts.setdefault("hits", 0)
    requests = make_requests(shapes, round_number=number, count=1, text_tokens=64, tasks=(task,))
    report: Report = engine.ask(Batch(requests=requests, tokens=4))
    engine.facts["hits"] = report.counters[_HITS]
    hits = report.counters[_HITS] - before
    if hits != report.cached_tokens[0]:
        raise RuntimeError(f"vLLM counted {hits} tokens, and said {report.cached_tokens[0]} of the request")
    return hits


def _share(spared: list[int], rows: int) -> str:
    return f"{sum(spared)} of {rows} ({len(spared)} tasks)"


QUESTION = Question(
    name="prefix",
    asks="what a second request of a task spends on the task's prompt rows",
    teaches=_TEACHES,
    rounds=8,
    run=_run,
    options={
        "block": (32, "tokens of a KV block"),
        "blocks": (2, "blocks that a prompt fills"),
    },
)
