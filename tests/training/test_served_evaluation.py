"""Answers of a server, graded: ranked, structured and generated, each example beside its own answer."""

import pytest

from prompts.errors import ConfigError
from tests.training.fake_vllm import FakeVllm, log_prob
from training.config import How
from training.data import Example
from training.evaluate import Graded
from training.served import ServedModel
from training.served_evaluation import evaluate_served

EXAMPLES = [Example(None, f"eno{number}", f"{number} one!", ("n", "b", "c")) for number in range(9)]


def graded(how: How, fake: FakeVllm, **more: object) -> list[Graded]:
    model = ServedModel("http://somewhere", task=None, at_once=2, transport=fake.transport)
    return list(evaluate_served(model, EXAMPLES, how=how, **more))  # type: ignore[arg-type]


def test_the_best_candidate_is_the_answer() -> None:
    best = max("nbc", key=lambda letter: log_prob(0, ord(letter)))
    found = graded("ranking", FakeVllm())
    assert best == "b"
    assert [(one.question, one.wanted, one.said, one.right) for one in found] == [
        (example.question, example.answer, best, False) for example in EXAMPLES
    ]


def test_texts_are_compared_after_normalisation() -> None:
    fake = FakeVllm()
    found = graded("generation", fake, max_new_tokens=5)
    assert [(one.said, one.right) for one in found] == [(f"{n}one", False) for n in range(9)]
    assert {body["max_tokens"] for body in fake.chats} == {5}
    spaced = [Example(None, f"eno {number}", f"{number} One!") for number in range(3)]
    model = ServedModel("http://somewhere", task=None, transport=FakeVllm().transport)
    assert [one.right for one in evaluate_served(model, spaced, how="generation")] == [True] * 3


def test_structured_answers_are_held_to_the_choices_given() -> None:
    fake = FakeVllm()
    graded("structured", fake, choices=("yes", "no"))
    assert {tuple(body["structured_outputs"]["choice"]) for body in fake.chats} == {("yes", "no")}


def test_ranking_without_choices_is_refused() -> None:
    model = ServedModel("http://somewhere", task=None, transport=FakeVllm().transport)
    with pytest.raises(ConfigError, match="how: expected choices to decide between"):
        list(evaluate_served(model, [Example(None, "what?", "x")]))
