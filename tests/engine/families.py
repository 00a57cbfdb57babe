"""What every family must stand: its tasks on a tiny checkpoint, one start of vLLM, against its oracle."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from server.engine.handles import using_task
from server.engine.offline import OfflineTasks
from tests.engine.oracle_families import FamilyOracle
from tests.engine.serving import BLOCK, PICTURES, Case, Served, assert_same, cached_blocks, start_llm
from tests.engine.tiny_tasks import make_task

__all__ = [
    "assert_parity_alone_and_cached",
    "assert_parity_mixed",
    "assert_pixels",
    "assert_the_oracle_is_transformers",
    "serve_family",
]

MAX_PIXEL_ERROR = 1e-5


@contextmanager
def serve_family(
    model: Path,
    oracle: FamilyOracle,
    folder: Path,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    mark: str = "<image>\n",
    **options: Any,
) -> Iterator[Served]:
    """Eager vLLM on `model` with `tasks` (name -> what `make_task` is told) resident."""
    with start_llm(model, folder / "cache", enforce_eager=True, max_model_len=512, **options) as llm:
        served = Served(OfflineTasks(llm, model), oracle, model, bundles={}, handles={}, mark=mark)
        for seed, (name, parts) in enumerate(tasks.items(), start=1):
            served.load(make_task(folder, name, model, seed=seed, **parts))
        yield served


def assert_the_oracle_is_transformers(served: Served, cases: Sequence[Case]) -> None:
    """Without a task the oracle is the model's own forward pass, pictures and all."""
    for case in cases:
        plain = served.oracle.plain_logprobs(served.prompt(case), PICTURES[: case.pictures])
        torch.testing.assert_close(served.expect(case, tokens=1).logprobs, plain, rtol=0, atol=1e-5)


def assert_parity_alone_and_cached(served: Served, case: Case) -> None:
    """One request, and the same again out of the prefix cache."""
    expected = served.expect(case)
    served.forget_cached()
    first, again = served.ask([case])[0], served.ask([case])[0]
    assert_same(first, expected, case)
    assert_same(again, expected, case)
    assert first.num_cached_tokens == 0
    assert again.num_cached_tokens == cached_blocks(again) * BLOCK > 0


def assert_parity_mixed(served: Served, cases: Sequence[Case]) -> None:
    """All in one batch, and again out of the prefix cache; every task must move the base model's answer."""
    expected = [served.expect(case) for case in cases]
    served.forget_cached()
    for round_trip in ("first", "cached"):
        for case, output, answer in zip(cases, served.ask(cases), expected, strict=True):
            assert_same(output, answer, (round_trip, str(case)))
    for case, answer in zip(cases, expected, strict=True):
        if case.task:
            plain = served.expect(Case(None, case.pictures), tokens=1)
            assert (answer.logprobs - plain.logprobs).abs().max() > 0.1, f"{case} changes nothing"


def assert_pixels(served: Served, task: str | None) -> None:
    """What goes to the worker are the pixels transformers' processor makes of the (framed) picture."""
    with using_task(served.handles[task] if task else None):
        prompt = {"prompt": served.prompt(Case(task)), "multi_modal_data": {"image": PICTURES[0]}}
        (rendered,) = served.tasks.llm.renderer.render_cmpl([prompt], skip_mm_cache=True)
    came = rendered["mm_kwargs"]["image"][0]["pixel_values"].data
    bundle = served.bundles[task] if task else None
    wanted = served.oracle.inputs(served.prompt(Case(task)), PICTURES[:1], bundle)["pixel_values"][0]
    assert came.dtype == torch.float32
    torch.testing.assert_close(came, wanted, rtol=0, atol=MAX_PIXEL_ERROR)
    if bundle is not None:
        assert came.abs().max() > 4  # far outside what a picture of 8 bits comes to
