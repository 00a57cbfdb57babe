"""Idefics3 and SmolVLM, which has its layout: tiles, pixel shuffle; vision prompts in mode paper."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prompts.errors import BundleError
from prompts.manifest import FrameSpec
from tests.engine import families
from tests.engine.oracle_families import Idefics3Oracle
from tests.engine.serving import Case, Served
from tests.engine.tiny_families import TILE_TOKENS, make_tiny_idefics3, make_tiny_smolvlm
from tests.engine.tiny_llava import HIDDEN, VISION_HIDDEN
from tests.engine.tiny_tasks import make_task

pytestmark = pytest.mark.engine

PROJECTOR = {"proj.weight": (HIDDEN, 4 * VISION_HIDDEN)}
WIDE = FrameSpec(canvas=(40, 80), inner=36)
"""A framed picture is cut into 1 × 2 tiles, a plain one into 2 × 2."""
TASKS = {
    "text": {"text": 5},
    "vision-paper": {"vision": 4, "mode": "paper"},
    "projector": {"projector": PROJECTOR},
    "frame": {"frame": WIDE},
    "everything": {"text": 3, "vision": 2, "mode": "paper", "projector": PROJECTOR, "frame": True},
    "head": {"text": 3, "lm_head": True},
}
CASES = [
    *(Case(task) for task in (None, *TASKS)),
    *(Case(task, 0) for task in (None, "text", "everything")),
    *(Case(task, 2) for task in (None, "vision-paper", "everything")),
]


MODELS = {"Idefics3": make_tiny_idefics3, "SmolVLM": make_tiny_smolvlm}


@pytest.fixture(scope="module", params=MODELS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def served(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(family)
    model = MODELS[family](folder / "model")
    with families.serve_family(folder, model, Idefics3Oracle(model), TASKS) as running:
        yield running


def test_each_is_served_as_what_it_is(served: Served, family: str) -> None:
    """vLLM looks a checkpoint up by its architecture; each has a class of ours and a processor of its own."""
    assert served.oracle.config.architectures == [f"{family}ForConditionalGeneration"]
    processor = served.tasks.llm.renderer.mm_processor.info.get_hf_processor()
    assert type(processor).__name__ == f"{family}Processor"


def test_the_oracle_is_transformers(served: Served) -> None:
    families.assert_the_oracle_is_transformers(served, [Case(None, count) for count in (0, 1, 2)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone_and_again_from_the_prefix_cache(served: Served, case: Case) -> None:
    families.assert_parity_alone(served, case)


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    families.assert_parity_mixed(served, CASES)


@pytest.mark.parametrize("task", [None, "frame"])
def test_pixels(served: Served, task: str | None) -> None:
    families.assert_pixels(served, task)


def test_the_tiles_are_those_of_the_framed_picture(served: Served) -> None:
    token = served.oracle.config.image_token_id
    outputs = served.ask([Case(None), Case("frame")], tokens=1)
    tiles = [output.prompt_token_ids.count(token) // TILE_TOKENS for output in outputs]
    assert tiles == [2 * 2 + 1, 1 * 2 + 1]


def test_mode_released_is_refused_with_its_reason(served: Served, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"vision.mode: expected paper, came released; pixel shuffle"):
        served.tasks.load(make_task(tmp_path, "released", served.model, seed=1, vision=2))
