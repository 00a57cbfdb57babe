"""`lora`: many tasks in one batch as learned prompts, against as many as LoRA adapters."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.adapters import make_adapters
from benchmarks.engines import multi_lora, prompted, running_all
from benchmarks.harness import alternate
from benchmarks.jobs import Batch
from benchmarks.materials import Shapes, find_model, make_requests, make_tasks
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say

__all__ = ["QUESTION"]

_TEACHES = """\
As many random M²PT tasks as requests in one batch of ours; the same requests in stock vLLM with its own
multi-LoRA, one random adapter for each (every linear layer of the language model), all of them resident.
Figure: answer tokens per second of ours over those of multi-LoRA. Our requests are 30 tokens longer, which is
in the figure. On a CPU vLLM computes LoRA without kernels of its own: the figure there says nothing of a GPU.
"""


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    shapes = Shapes(model)
    with tempfile.TemporaryDirectory(prefix="benchmark-tasks-") as folder:
        bundles = make_tasks(model, Path(folder) / "tasks", options.tasks)
        adapters = make_adapters(shapes, Path(folder) / "adapters", options.tasks, rank=options.rank)
        say("starting two engines")
        lora = multi_lora(model, adapters=adapters, rank=options.rank, dtype=options.dtype)
        with running_all(prompted(model, bundles=bundles, dtype=options.dtype), lora) as (ours, theirs):

            def batch(number: int) -> Batch:
                requests = make_requests(
                    shapes,
                    round_number=number,
                    count=options.tasks,
                    text_tokens=options.text_tokens,
                    tasks=range(options.tasks),
                )
                return Batch(requests=requests, tokens=options.tokens)

            for engine in (ours, theirs):
                engine.check_tasks(batch(-1))
            rounds = alternate(
                {
                    "ours": lambda number: ours.ask(batch(number)).tokens_per_second,
                    "multi-LoRA": lambda number: theirs.ask(batch(number)).tokens_per_second,
                },
                options.rounds,
                say=say,
            )
    figures = [Figure.of_ratio("tokens/s against multi-LoRA", rounds.ratio("ours", "multi-LoRA"), 2.0)]
    return QUESTION.found(options, figures, rounds.sides)


QUESTION = Question(
    name="lora",
    asks="32 tasks in one batch as learned prompts, against as many adapters of vLLM's own multi-LoRA",
    teaches=_TEACHES,
    rounds=5,
    run=_run,
    options={
        "tasks": (32, "tasks, adapters, and requests at once"),
        "rank": (8, "rank of the adapters"),
        "text_tokens": (32, "random text tokens of a request, beside its picture"),
        "tokens": (32, "tokens of each answer"),
    },
)
