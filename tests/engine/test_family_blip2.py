"""BLIP-2: OPT, whose layers take no residual, and a Q-Former; vision prompts in mode paper."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prompts.errors import BundleError
from tests.engine import families
from tests.engine.oracle_families import Blip2Oracle
from tests.engine.serving import Case, Served
from tests.engine.tiny_families import make_tiny_blip2
from tests.engine.tiny_llava import HIDDEN
from tests.engine.tiny_tasks import make_task

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
PROJECTOR = {"weight": (HIDDEN, 32), "bias": (HIDDEN,)}
TASKS = {
    "text": {"text": 5},
    "long-text": {"text": 40},
    "vision-paper": {"vision": 4, "mode": "paper"},
    "projector": {"projector": PROJECTOR},
    "frame": {"frame": True},
    "everything": {"text": 3, "vision": 2, "mode": "paper", "projector": PROJECTOR, "frame": True},
    "head": {"text": 3, "lm_head": True},
}
CASES = [
    *(Case(task) for task in (None, *TASKS)),
    *(Case(task, 0) for task in (None, "text", "everything")),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("blip2")
    model = make_tiny_blip2(folder / "model")
    with families.serve_family(folder, model, Blip2Oracle(model), TASKS, mark="") as running:
        yield running


def test_the_oracle_is_transformers(served: Served) -> None:
    families.assert_the_oracle_is_transformers(served, [Case(None)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone_and_again_from_the_prefix_cache(served: Served, case: Case) -> None:
    families.assert_parity_alone(served, case)


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    families.assert_parity_mixed(served, CASES)


@pytest.mark.parametrize("task", [None, "frame"])
def test_pixels(served: Served, task: str | None) -> None:
    families.assert_pixels(served, task)


def test_mode_released_is_refused_with_its_reason(served: Served, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"vision.mode: expected paper, came released; .*Q-Former"):
        served.tasks.load(make_task(tmp_path, "released", served.model, seed=1, vision=2))


def test_the_page_that_says_how_to_add_a_family_shows_this_one() -> None:
    code = (ROOT / "server/engine/families/blip2.py").read_text(encoding="utf-8")
    page = (ROOT / "docs/families.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.+?)```", page, flags=re.DOTALL)
    assert "def find_decoder_layers" in shown
    assert code.endswith(shown)
