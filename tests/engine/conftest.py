"""One tiny checkpoint, its oracle and a bundle of every kind for all modules; each starts its own vLLM."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from prompts.bundle import Bundle
from server.engine.offline import OfflineTasks
from tests.engine.oracle import Oracle
from tests.engine.serving import TASKS, Served, start_llm
from tests.engine.tiny_llava import make_tiny_llava
from tests.engine.tiny_tasks import make_task
from training.backbone import LlavaBackbone

Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("tiny-llava"))


@pytest.fixture(scope="session")
def bundles(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("tasks")
    made = enumerate(TASKS.items(), start=1)
    return {name: make_task(folder, name, tiny_model, seed=seed, **parts) for seed, (name, parts) in made}


@pytest.fixture(scope="session")
def oracle(tiny_model: Path) -> Oracle:
    return Oracle(tiny_model)


@pytest.fixture(scope="session")
def backbone(tiny_model: Path) -> LlavaBackbone:
    """The trainers' own model on the same checkpoint, in float32."""
    return LlavaBackbone.load(tiny_model, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def serve(
    tiny_model: Path, bundles: dict[str, Bundle], oracle: Oracle, tmp_path_factory: pytest.TempPathFactory
) -> Serve:
    """`with serve(**vLLM options) as served`: every task of `TASKS` resident."""

    @contextmanager
    def start(cache: Path | None = None, **options: Any) -> Iterator[Served]:
        cache = cache or tmp_path_factory.mktemp("vllm-cache")
        with start_llm(tiny_model, cache, **options) as llm:
            served = Served(OfflineTasks(llm, tiny_model), oracle, tiny_model, bundles={}, handles={})
            for bundle in bundles.values():
                served.load(bundle)
            yield served

    return start
