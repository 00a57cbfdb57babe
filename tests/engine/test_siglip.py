"""A SigLIP tower: no CLS, no row dropped; and, last of all, a request whose task is gone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engine.offline import OfflineTasks
from tests.engine.families import assert_parity_alone, assert_parity_mixed
from tests.engine.oracle import Oracle
from tests.engine.serving import Case, Served, start_llm
from tests.engine.tiny_llava import make_tiny_llava
from tests.engine.tiny_tasks import make_task

pytestmark = pytest.mark.engine

TASKS = {
    "vision": {"vision": 3},
    "vision-paper": {"vision": 2, "mode": "paper"},
    "everything": {"text": 3, "vision": 2, "projector": True, "frame": True},
}
CASES = [Case(task) for task in (None, *TASKS)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The last encoder layer runs here (`vision_feature_layer` -1); the other modules stop before it."""
    folder = tmp_path_factory.mktemp("siglip")
    model = make_tiny_llava(folder / "model", tower="siglip", vision_feature_layer=-1)
    with start_llm(model, folder / "cache", enforce_eager=True) as llm:
        served = Served(OfflineTasks(llm, model), Oracle(model), model, bundles={}, handles={})
        for seed, (name, parts) in enumerate(TASKS.items(), start=1):
            served.load(make_task(folder, name, model, seed=seed, **parts))
        yield served


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone_and_again_from_the_prefix_cache(served: Served, case: Case) -> None:
    assert_parity_alone(served, case)


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    assert_parity_mixed(served, CASES)


def test_a_task_of_another_checkpoint_is_refused(served: Served, bundles: dict, tmp_path: Path) -> None:
    from prompts.errors import BaseModelMismatchError

    with pytest.raises(
        BaseModelMismatchError, match=r"task 'text': base_model.fingerprint: expected sha256:"
    ):
        served.tasks.load(bundles["text"])


def test_a_request_whose_task_is_gone_is_never_answered(served: Served) -> None:
    """It stops the engine: the front end has to see to it that this does not happen. Keep this test last."""
    from vllm.v1.engine.exceptions import EngineDeadError

    handle = served.handles["everything"]
    served.tasks.unload(handle)
    asyncio.run(served.tasks.residency.discard(handle.digest))
    served.forget_cached()
    with pytest.raises(EngineDeadError):
        served.ask([Case("everything")])
