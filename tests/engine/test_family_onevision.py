"""LLaVA-OneVision: tiles, packed rows, tokens counted by a picture's size; vision prompts in mode paper."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from prompts.errors import BundleError, PictureError
from server.engine.handles import using_task
from tests.engine import families
from tests.engine.oracle_families import OnevisionOracle
from tests.engine.serving import Case, Served
from tests.engine.tiny_families import make_tiny_onevision
from tests.engine.tiny_tasks import make_task

pytestmark = pytest.mark.engine

TASKS = {
    "text": {"text": 5},
    "vision-paper": {"vision": 4, "mode": "paper"},
    "projector": {"projector": True},
    "frame": {"frame": True},
    "everything": {"text": 3, "vision": 2, "mode": "paper", "projector": True, "frame": True},
    "head": {"text": 3, "lm_head": True},
}
CASES = [
    *(Case(task) for task in (None, *TASKS)),
    *(Case(task, 0) for task in (None, "text", "everything")),
    *(Case(task, 2) for task in (None, "vision-paper", "everything")),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("onevision")
    model = make_tiny_onevision(folder / "model")
    with families.serve_family(folder, model, OnevisionOracle(model), TASKS) as running:
        yield running


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


def test_mode_released_is_refused_with_its_reason(served: Served, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"vision.mode: expected paper, came released; .*square grid"):
        served.tasks.load(make_task(tmp_path, "released", served.model, seed=1, vision=2))


def test_a_video_is_refused_where_the_task_changes_pictures(served: Served) -> None:
    clip = [Image.new("RGB", (60, 60))] * 2
    prompt = {"prompt": "USER: <video>\nwhat is it? ASSISTANT:", "multi_modal_data": {"video": clip}}
    with using_task(served.handles["everything"]), pytest.raises(PictureError, match="came a video"):
        served.tasks.llm.renderer.render_cmpl([prompt])
    with using_task(served.handles["text"]):
        (rendered,) = served.tasks.llm.renderer.render_cmpl([prompt])
    assert rendered["mm_placeholders"]["learned_prompt"][0].length == 5
