"""Grading, with and without a bundle, against one naive pass per candidate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.errors import BaseModelMismatchError, ConfigError, PictureRequiredError, UnsupportedError
from prompts.frame import frame_picture
from prompts.manifest import Usage
from tests.engine.tiny_llava import make_tiny_llava
from tests.engine.tiny_tasks import make_task
from tests.training.conftest import random_picture
from tests.training.test_choices import grammar_ids
from training.backbone import NO_PROMPTS, DeepPrompts, LlavaBackbone
from training.chat import Encoded
from training.config import EvaluateConfig
from training.data import Example
from training.evaluate import Graded, How, choices_of, evaluate, grade, normalise_answer, score_of
from training.evaluation_report import BASE, report

CHOICES = ("seven", "a heron by the water", "three")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
"""So many, of one token each, that a small change of the picture changes the best."""

USAGE = Usage(system="Be brief.", template="Look: {text}")

BUNDLES: dict[str, dict[str, Any]] = {
    "base": {},
    "text": {"text": 4},
    "vision": {"vision": 3},
    "paper": {"vision": 3, "mode": "paper", "text": 2},
    "whole": {"vision": 3, "text": 4, "projector": True},
    "frame": {"frame": True},
    "headed": {"text": 4, "at": (0, 2), "vision": 3, "vision_at": (1,), "lm_head": True},
}


def with_usage(bundle: Bundle, usage: Usage) -> Bundle:
    assert bundle.path is not None
    return save_bundle(bundle.path, bundle.manifest.model_copy(update={"usage": usage}), bundle.tensors)


def examples(count: int = 5) -> list[Example]:
    return [
        Example(random_picture(number), f"what is {number}?", CHOICES[number % 3], CHOICES)
        for number in range(count)
    ]


@pytest.fixture
def bundle(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Bundle | None:
    parts = BUNDLES[request.param]
    return with_usage(make_task(tmp_path, "t", tiny_folder, seed=2, **parts), USAGE) if parts else None


@torch.no_grad()
def naive_choice(tiny: LlavaBackbone, example: Example, bundle: Bundle | None) -> str:
    """The candidate of the least mean cross-entropy, each in a pass of its own without a cache."""
    deep = DeepPrompts.of_bundle(bundle, tiny.device) if bundle else NO_PROMPTS
    assert example.picture is not None
    pixels = tiny.process([example.picture])
    if bundle and bundle.manifest.frame and bundle.frame_delta is not None:
        framed = frame_picture(example.picture, bundle.manifest.frame, bundle.frame_delta)
        pixels = tiny.process_canvas(framed[None])
    features = tiny.image_features(pixels, deep)
    rendered = tiny.chat.render(
        example.question, picture=True, usage=bundle.manifest.usage if bundle else None
    )
    losses = []
    for choice in example.choices or ():
        batch = tiny.collate([tiny.chat.encode(rendered, choice, end=False)], features)
        losses.append(tiny.answer_loss(batch, features, deep).item())
    return (example.choices or ())[losses.index(min(losses))]


@pytest.mark.parametrize("bundle", BUNDLES, indirect=True)
def test_ranking_is_the_naive_choice(tiny: LlavaBackbone, bundle: Bundle | None) -> None:
    source = examples(8)
    graded = list(evaluate(tiny, source, bundle=bundle, batch=3))
    assert [one.said for one in graded] == [naive_choice(tiny, example, bundle) for example in source]
    assert [one.wanted for one in graded] == [example.answer for example in source]
    assert [one.right for one in graded] == [one.said == one.wanted for one in graded]
    assert score_of(graded).n == 8
    if bundle is not None:  # so that leaving a part of it out would show
        assert [one.said for one in graded] != [one.said for one in evaluate(tiny, source)]


def test_the_frame_is_put_on(tiny: LlavaBackbone, tiny_folder: Path, tmp_path: Path) -> None:
    source = [Example(random_picture(number), "what?", "a", LETTERS) for number in range(6)]
    framed = make_task(tmp_path, "t", tiny_folder, seed=2, frame=True)
    said = [one.said for one in evaluate(tiny, source, bundle=framed)]
    assert said == [naive_choice(tiny, example, framed) for example in source]
    assert said != [one.said for one in evaluate(tiny, source)]


@torch.no_grad()
def naive_text(tiny: LlavaBackbone, example: Example, bundle: Bundle, tokens: int) -> str:
    deep = DeepPrompts.of_bundle(bundle, tiny.device)
    assert example.picture is not None
    features = tiny.image_features(tiny.process([example.picture]), deep)
    prompt = tiny.encode_example(example, bundle.manifest.usage).prompt
    said: list[int] = []
    while len(said) < tokens:
        batch = tiny.collate([Encoded(prompt, tuple(said))], features)
        hidden = tiny.hidden_states(tiny.embed(batch, features), deep)
        said.append(int(tiny.read_out(hidden[0, -1], deep).argmax()))
        if said[-1] in tiny.stop_ids:
            return tiny.chat.decode(said[:-1])
    return tiny.chat.decode(said)


@pytest.mark.parametrize("bundle", ["whole", "headed"], indirect=True)
def test_generation_is_the_naive_text(tiny: LlavaBackbone, bundle: Bundle) -> None:
    source = examples(3)
    graded = evaluate(tiny, source, bundle=bundle, how="generation", batch=2, max_new_tokens=5)
    assert [one.said for one in graded] == [naive_text(tiny, example, bundle, 5) for example in source]


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        ("A Heron.", "heron", True),
        ("The answer is: TWO!", "answer is 2", True),
        ("  an   owl ", "Owl", True),
        ("t-shirt", "T shirt", True),
        ("no", "No, no", False),
        ("t-shirt", "tshirt", False),
    ],
)
def test_answers_are_compared_after_normalising(said: str, wanted: str, same: bool) -> None:
    assert (normalise_answer(said) == normalise_answer(wanted)) == same


def test_an_answer_is_graded_beside_the_one_wanted() -> None:
    example = Example(None, "How many?", "two", ("one", "two"))
    assert grade(example, " 2.") == Graded("How many?", "two", " 2.", right=True)
    assert grade(example, "one") == Graded("How many?", "two", "one", right=False)
    assert choices_of(example) == ("one", "two")


@torch.no_grad()
def naive_structured(tiny: LlavaBackbone, example: Example, bundle: Bundle, choices: tuple[str, ...]) -> str:
    """Greedy text under xgrammar's own mask, every token recomputed from the start."""
    tokenizer = tiny.processor.tokenizer
    deep = DeepPrompts.of_bundle(bundle, tiny.device)
    assert example.picture is not None
    features = tiny.image_features(tiny.process([example.picture]), deep)
    prompt = tiny.encode_example(example, bundle.manifest.usage).prompt
    said: list[int] = []
    while True:
        batch = tiny.collate([Encoded(prompt, tuple(said))], features)
        logits = tiny.model.lm_head(tiny.hidden_states(tiny.embed(batch, features), deep)[0, -1])
        written = tokenizer.decode(said)
        allowed = grammar_ids(tokenizer, choices, written)
        token = max(allowed, key=lambda one: float(logits[one]))
        if token in tiny.stop_ids:
            return written
        said.append(token)


@pytest.mark.parametrize("bundle", ["whole"], indirect=True)
def test_structured_is_greedy_under_the_servers_mask(tiny: LlavaBackbone, bundle: Bundle) -> None:
    choices = ("a heron", "a heron by the water", "a hero", "seven", "nine", "well", "what is it", "no")
    source = [Example(random_picture(number), "what?", "no", ("yes", "no")) for number in range(6)]
    graded = evaluate(tiny, source, bundle=bundle, how="structured", batch=4, choices=choices)
    expected = [naive_structured(tiny, example, bundle, choices) for example in source]
    assert [one.said for one in graded] == expected
    assert set(expected) <= set(choices)
    own = evaluate(tiny, source, bundle=bundle, how="structured", batch=4)
    assert {one.said for one in own} <= {"yes", "no"}


@pytest.mark.parametrize("how", ["ranking", "structured"])
def test_candidates_are_needed(tiny: LlavaBackbone, how: How) -> None:
    source = [Example(random_picture(0), "what?", "seven")]
    with pytest.raises(ConfigError, match="how: expected choices to decide between, came an example without"):
        list(evaluate(tiny, source, how=how))


@pytest.mark.parametrize("bundle", ["frame"], indirect=True)
def test_a_frame_needs_a_picture(tiny: LlavaBackbone, bundle: Bundle) -> None:
    source: Sequence[Example] = [*examples(1), Example(None, "hello", "seven", CHOICES)]
    assert len(list(evaluate(tiny, source))) == 2
    with pytest.raises(PictureRequiredError, match="task 't'"):
        list(evaluate(tiny, source, bundle=bundle))


def test_a_prefix_is_served_but_not_measured(tiny: LlavaBackbone, tiny_folder: Path, tmp_path: Path) -> None:
    bundle = make_task(tmp_path, "t", tiny_folder, seed=0, prefix=2)
    with pytest.raises(UnsupportedError, match="prefix: expected null, came a prefix"):
        list(evaluate(tiny, examples(1), bundle=bundle))


def config(model: Path, root: Path, **changes: Any) -> EvaluateConfig:
    data = {"kind": "image_folder", "root": str(root)}
    return EvaluateConfig.model_validate({"model": str(model), "data": data, "dtype": "float32", **changes})


def test_a_report_is_printed_and_written(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle may be called as it likes: it never hides the base model's row."""
    bundle = make_task(tmp_path, "base", tiny_folder, seed=0, text=4)
    out = tmp_path / "results"
    scores = report(config(tiny_folder, picture_folder, bundle=bundle.path, out=out))
    assert list(scores) == [BASE, "base"]
    written = json.loads((out / "results.json").read_text())
    assert {name: found["accuracy"] for name, found in written.items()} == {
        name: found.accuracy for name, found in scores.items()
    }
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    for name, found in scores.items():
        own = [answer["right"] for answer in answers if answer["prompt"] == name]
        assert len(own) == found.n == 9
        assert sum(own) / 9 == found.accuracy
    printed = capsys.readouterr().out
    assert all(str(found) in printed for found in scores.values())


def test_a_bundle_of_another_base_model_is_refused(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """The same shapes, other weights."""
    other = make_tiny_llava(tmp_path / "other", seed=1)
    bundle = make_task(tmp_path, "t", other, seed=0, text=4)
    with pytest.raises(BaseModelMismatchError, match=r"base_model\.fingerprint"):
        report(config(tiny_folder, picture_folder, bundle=bundle.path))
    frame = make_task(tmp_path, "f", other, seed=0, frame=True)
    assert load_bundle(tmp_path / "f").manifest.base_model is None
    assert set(report(config(tiny_folder, picture_folder, bundle=frame.path))) == {BASE, "f"}
