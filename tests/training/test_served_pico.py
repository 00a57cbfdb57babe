"""pico-llava on a real server and on transformers, both in float32: one checkpoint, one set of answers.

Held for the base model, for a frame, and for a shipped task with learned rows in both encoders and a
projector of its own.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.frame import frame_mask, framed_image
from prompts.manifest import FrameSpec, Manifest
from tests.server.browser import ask, card, choose, running_browser, visiting
from tests.server.real import running_server
from tests.training.local_scores import local_scores, same_best, worst_gap
from training.backbone import LlavaBackbone
from training.config import How
from training.data import Example
from training.demo.lineup import examples_folder
from training.evaluate import evaluate
from training.pico.tasks import make_source
from training.served import ServedModel
from training.served_evaluation import evaluate_served

pytestmark = pytest.mark.behaviour

EXAMPLES, CANDIDATES = 12, 3
TOLERANCE = 1e-3
"""Nats per token between two scores of a candidate; measured: 3e-5."""
PNG_TOLERANCE = 0.2
"""The same where the framed picture was rounded to 8 bits on its way; measured: 0.022."""
PICO_TASK = {None: "name", "framed": "name", "category": "category"}


@dataclass(frozen=True)
class Site:
    """A server of `tasks`, and the same checkpoint on transformers."""

    url: str
    backbone: LlavaBackbone
    tasks: Path

    def bundle(self, task: str | None) -> Bundle | None:
        return None if task is None else load_bundle(self.tasks / task)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pico_llava: Path) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(examples_folder() / "tasks" / "category", root / "tasks" / "category")
    spec = FrameSpec(value_range="unit")
    delta = torch.rand(3, *spec.canvas, generator=torch.Generator().manual_seed(3)) * frame_mask(spec)
    manifest = Manifest(name="framed", version="1", frame=spec)
    save_bundle(root / "tasks" / "framed", manifest, {"frame.delta": delta})
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "16"]
    with running_server(pico_llava, root / "tasks", root / "server.log", *options) as url:
        backbone = LlavaBackbone.load(pico_llava, dtype="float32", device="cpu")
        yield Site(url, backbone, root / "tasks")


def asked(task: str | None, count: int = EXAMPLES) -> list[Example]:
    """Held-out pictures, a few candidates for each: names are of several tokens, categories of one or two."""
    source = make_source(PICO_TASK[task], "test", count, 0)
    return [_fewer(source[index]) for index in range(count)]


def _fewer(example: Example) -> Example:
    others = [choice for choice in example.choices or () if choice != example.answer]
    return replace(example, choices=(*others[: CANDIDATES - 1], example.answer))


@pytest.mark.parametrize("task", [None, "framed", "category"])
def test_choices_score_as_on_transformers(site: Site, task: str | None) -> None:
    examples = asked(task)
    ours = local_scores(site.backbone, site.bundle(task), examples)
    with ServedModel(site.url, task=task) as served:
        theirs = list(served.score_choices(examples))
    assert worst_gap(ours, theirs) < TOLERANCE
    same = same_best(ours, theirs, TOLERANCE)
    assert all(same)
    assert len(same) > EXAMPLES // 2
    if task is not None:
        assert worst_gap(local_scores(site.backbone, None, examples), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("how", get_args(How))
def test_answers_are_those_of_transformers(site: Site, how: How) -> None:
    examples = asked("category", 6)
    ours = list(evaluate(site.backbone, examples, bundle=site.bundle("category"), how=how, max_new_tokens=6))
    with ServedModel(site.url, task="category") as served:
        assert list(evaluate_served(served, examples, how=how, max_new_tokens=6)) == ours
    assert len({one.said for one in ours}) > 1


def test_a_framed_png_asks_the_base_model_what_the_frames_task_is_asked(site: Site) -> None:
    bundle = site.bundle("framed")
    assert bundle is not None
    examples = asked("framed", 4)
    framed = [
        replace(example, picture=framed_image(bundle, example.picture))
        for example in examples
        if example.picture
    ]
    with ServedModel(site.url, task=None) as served:
        theirs = list(served.score_choices(framed))
    assert worst_gap(local_scores(site.backbone, bundle, examples), theirs) < PNG_TOLERANCE
    assert worst_gap(local_scores(site.backbone, None, examples), theirs) > 2 * PNG_TOLERANCE


def test_the_page_shows_what_a_task_is_good_for(site: Site) -> None:
    """The example pictures that come with the page, asked there."""
    with running_browser() as browser, visiting(browser, site.url) as visit:
        page = visit.open()
        choose(page, None, "category", "framed")
        for example, answer in (("A peacock", "animal"), ("Grapes", "food")):
            page.get_by_role("button", name=example).click()
            page.locator("#caption").filter(has_text="224 × 224").wait_for()
            ask(page, page.locator("#question").input_value())
            for task in (None, "category", "framed"):
                card(page, task).and_(page.locator("[data-state=done]")).wait_for()
            assert card(page, "category").locator(".answer").inner_text() == answer
            assert card(page, "framed").get_by_role("img").get_attribute("aria-label") == (
                "The picture in the frame of framed"
            )
            assert card(page, None).locator(".answer").inner_text() != ""
