"""What every model family is asked: each case alone, again from the prefix cache, and all in one batch."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from server.engine.handles import using_task
from server.engine.offline import OfflineTasks
from tests.engine.serving import BLOCK, PICTURES, Case, Served, assert_same, cached_blocks, engine_options
from tests.engine.tiny_tasks import make_task

__all__ = [
    "assert_parity_alone",
    "assert_parity_mixed",
    "assert_pixels",
    "assert_the_oracle_is_transformers",
    "serve_family",
]

MAX_PIXEL_ERROR = 1e-5


@contextmanager
def start_llm_here(model: Path, cache: Path, **options: Any) -> Iterator[Any]:
    """vLLM's `LLM` with its engine in this process; all of it is taken down at the end."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CACHE_ROOT", str(cache))
        environment.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        environment.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        environment.delenv("VLLM_PLUGINS", raising=False)
        # The CPU worker changes these two for good; they are put back with the rest.
        environment.setenv("VLLM_DIST_IDENT", "")
        environment.setattr(torch, "set_num_threads", torch.set_num_threads)
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vLLM looks at every module there is, and some complain
            llm = LLM(str(model), **engine_options(**options))
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            cleanup_dist_env_and_memory()


@contextmanager
def serve_family(
    folder: Path, model: Path, oracle: Any, tasks: Mapping[str, Mapping[str, Any]], **more: Any
) -> Iterator[Served]:
    """vLLM on the checkpoint `model`, eager, with every one of `tasks` (see `make_task`) resident.

    The engine runs in this process, which starts in a fraction of the time of one with processes of its own.
    """
    with start_llm_here(model, folder / "cache", enforce_eager=True, max_model_len=512) as llm:
        served = Served(OfflineTasks(llm, model), oracle, model, bundles={}, handles={}, **more)
        for seed, (name, parts) in enumerate(tasks.items(), start=1):
            served.load(make_task(folder / "tasks", name, model, seed=seed, **parts))
        yield served


def assert_the_oracle_is_transformers(served: Served, cases: Sequence[Case]) -> None:
    """Without a task the oracle is the model's own forward pass, pictures and all."""
    for case in cases:
        plain = served.oracle.plain_logprobs(served.prompt(case), PICTURES[: case.pictures])
        torch.testing.assert_close(served.expect(case, tokens=1).logprobs, plain, rtol=0, atol=1e-5)


def assert_parity_alone(served: Served, case: Case) -> None:
    """Right the first time, with nothing cached, and right again with all whole blocks cached."""
    expected = served.expect(case)
    served.forget_cached()
    first = served.ask([case])[0]
    again = served.ask([case])[0]
    assert_same(first, expected, case)
    assert_same(again, expected, case)
    assert first.num_cached_tokens == 0
    assert again.num_cached_tokens == cached_blocks(again) * BLOCK > 0


def assert_parity_mixed(served: Served, cases: Sequence[Case]) -> None:
    """Right in one batch of all, and again out of the prefix cache; no task leaves the answer as it was."""
    expected = [served.expect(case) for case in cases]
    served.forget_cached()
    for round_trip in ("first", "cached"):
        outputs = served.ask(cases)
        for case, output, answer in zip(cases, outputs, expected, strict=True):
            assert_same(output, answer, (round_trip, str(case)))
    assert all(output.num_cached_tokens == cached_blocks(output) * BLOCK for output in outputs)
    for case, answer in zip(cases, expected, strict=True):
        if case.task:
            plain = served.expect(type(case)(None, case.pictures), tokens=1)
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
