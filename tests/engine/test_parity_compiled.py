"""vLLM with torch.compile, on a cache that a stock engine has filled; prompts split by chunked prefill.

vLLM keys what it compiles by its config and the model's source, not by our hooks: without the salt of
`refusals.salt_compile_cache` our engine looks for its artifact where the stock engine's lies.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Serve
from tests.engine.serving import (
    ALL_CASES,
    BLOCK,
    Served,
    assert_same,
    cached_blocks,
    start_llm,
)
from tests.engine.stock import STOCK_WORKER

pytestmark = pytest.mark.engine

OPTIONS = {"max_num_batched_tokens": 64}
"""A chunk: `long-text` with a picture is longer, and a batch of all cases splits others too."""


@pytest.fixture(scope="module")
def cache(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the stock engine's artifact in it."""
    folder = tmp_path_factory.mktemp("vllm-cache")
    with start_llm(tiny_model, folder, worker_cls=STOCK_WORKER, **OPTIONS):
        pass  # vLLM compiles while it starts
    return folder


@pytest.fixture(scope="module")
def stock_artifacts(cache: Path) -> set[str]:
    return artifacts(cache)


@pytest.fixture(scope="module")
def served(serve: Serve, cache: Path, stock_artifacts: set[str]) -> Iterator[Served]:
    with serve(cache, **OPTIONS) as running:
        yield running


def artifacts(cache: Path) -> set[str]:
    """The keys vLLM files compiled models under."""
    return {
        file.parents[1].name for file in cache.glob("torch_compile_cache/torch_aot_compile/*/rank_*/model")
    }


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    expected = [served.expect(case) for case in ALL_CASES]
    for round_trip in ("first", "cached"):
        outputs = served.ask(ALL_CASES)
        for case, output, answer in zip(ALL_CASES, outputs, expected, strict=True):
            assert_same(output, answer, (round_trip, str(case)))
    assert all(output.num_cached_tokens == cached_blocks(output) * BLOCK for output in outputs)
    assert max(len(output.prompt_token_ids) for output in outputs) > OPTIONS["max_num_batched_tokens"]


def test_alone(served: Served) -> None:
    for case in ALL_CASES:
        served.forget_cached()
        for round_trip in ("first", "cached"):
            output = served.ask([case])[0]
            assert_same(output, served.expect(case), (round_trip, str(case)))
        assert output.num_cached_tokens == cached_blocks(output) * BLOCK, case


def test_the_stock_engines_artifact_is_not_ours(
    served: Served, cache: Path, stock_artifacts: set[str]
) -> None:
    assert len(stock_artifacts) == 1
    assert len(artifacts(cache) - stock_artifacts) == 1
