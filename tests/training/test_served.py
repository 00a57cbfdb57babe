"""A running server asked about examples: what is sent, what is read from the answers, what is refused."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops

from prompts.errors import (
    ConfigError,
    EngineError,
    InputError,
    PassepartoutError,
    TaskNotFoundError,
    UnsupportedError,
)
from tests.training.conftest import random_picture
from tests.training.fake_vllm import DIGEST, Body, FakeVllm, log_prob, picture_of, task, text_of
from training import served_client
from training.data import Example
from training.served import ServedModel

URL = "http://somewhere:8000"


def example(question: str, *choices: str, picture: Image.Image | None = None) -> Example:
    return Example(picture, question, "", choices or None)


def served(fake: FakeVllm, **options: Any) -> ServedModel:
    return ServedModel(URL, **{"task": None, "transport": fake.transport} | options)


def mean_of(text: str, candidate: str, rows: int = 0) -> float:
    """The fake's mean log-likelihood of a candidate at the end of `text`, `rows` learned rows before it."""
    first = rows + len(text) - len(candidate)
    return sum(log_prob(first + at, ord(one)) for at, one in enumerate(candidate)) / len(candidate)


def test_a_candidates_score_is_the_mean_over_its_own_tokens() -> None:
    fake = FakeVllm(tasks=[task("plain")])
    asked = [example("what?", "cat", "aardvark"), example("who is it?", "me", "you", "they")]
    for name, rows in ((None, 0), ("plain", 3)):
        scores = list(served(fake, task=name).score_choices(asked))
        assert [len(row) for row in scores] == [2, 3]
        for one, row in zip(asked, scores, strict=True):
            for candidate, score in zip(one.choices or (), row, strict=True):
                text = f"user\n{one.question}\nassistant\n{candidate}"
                assert score == pytest.approx(mean_of(text, candidate, rows))


def test_a_candidate_is_sent_as_an_answer_begun() -> None:
    fake = FakeVllm(tasks=[task("plain")])
    picture = random_picture(3)
    model = served(fake, task="plain", api_key="a-key")
    list(model.score_choices([example("what?", "cat", picture=picture)]))
    begun, question = fake.chats
    assert begun["messages"][1:] == [{"role": "assistant", "content": "cat"}]
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)
    assert begun["prompt_logprobs"] == 0
    assert len(question["messages"]) == 1
    for body in (begun, question):
        assert (body["model"], body["task"], body["max_tokens"], body["temperature"]) == (
            "base",
            "plain",
            1,
            0.0,
        )
        assert body["response_format"] == {"type": "text"}
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
        assert ImageChops.difference(picture_of(body), picture).getbbox() is None
    assert {headers["Authorization"] for headers in fake.headers} == {"Bearer a-key"}


def test_without_a_task_none_is_named_and_no_list_of_tasks_is_wanted() -> None:
    fake = FakeVllm(tasks=None)
    assert list(served(fake).generate([example("abc")], 5)) == ["cba"]
    assert "task" not in fake.chats[0]
    assert "Authorization" not in fake.headers[0]


def test_a_question_is_asked_alone_once_however_many_pictures_there_are() -> None:
    fake = FakeVllm()
    model = served(fake, at_once=1)
    scores = list(
        model.score_choices(example("what?", "cat", "dog", picture=random_picture(n)) for n in range(5))
    )
    assert scores == [scores[0]] * 5
    assert sum(len(body["messages"]) == 1 for body in fake.chats) == 1


def test_a_space_stands_before_a_candidate_where_the_template_ends_in_none() -> None:
    fake = FakeVllm(begin="ASSISTANT:", answer="ASSISTANT: ")
    [[score]] = served(fake).score_choices([example("what?", "cat")])
    assert score == pytest.approx(mean_of("user\nwhat?\nASSISTANT: cat", " cat"))


@pytest.mark.parametrize(
    ("fake", "came"),
    [
        (FakeVllm(answer="assistant\n<think>"), r"expected 'cat' after the question, came '<think>cat'"),
        (FakeVllm(begin="A:", answer="A:"), r"expected ' cat' after the question, came 'cat'"),
        (FakeVllm(answer="other"), r"expected 'cat' after the question"),
        (FakeVllm(joins=True), "expected tokens of its own, came some that reach back into the question"),
        (FakeVllm(tells=False), "prompt_text, prompt_token_ids: expected both in the answer, came neither"),
    ],
)
def test_what_the_trainers_would_not_score_is_refused(fake: FakeVllm, came: str) -> None:
    with pytest.raises(UnsupportedError, match=came) as caught:
        list(served(fake).score_choices([example("what?", "cat")]))
    assert "use how: structured" in str(caught.value)


def test_a_task_with_choices_is_scored_without_a_space() -> None:
    closed = task("closed", usage={"choices": ["cat", "dog"]})
    spaced = FakeVllm(begin="ASSISTANT:", answer="ASSISTANT: ", tasks=[closed])
    with pytest.raises(
        UnsupportedError, match="choice 'cat': expected 'cat' after the question, came ' cat'"
    ):
        list(served(spaced, task="closed").score_choices([example("what?", "cat")]))
    bare = FakeVllm(begin="ASSISTANT:", answer="ASSISTANT:", tasks=[closed])
    [[score]] = served(bare, task="closed").score_choices([example("what?", "cat")])
    assert score == pytest.approx(mean_of("user\nwhat?\nASSISTANT:cat", "cat", rows=3))


def test_a_choice_without_tokens_and_figures_of_other_tokens_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="expected tokens of its own, came none"):
        list(served(FakeVllm()).score_choices([example("what?", "")]))
    with pytest.raises(UnsupportedError, match="one whose prompt logprobs can be had"):
        served(FakeVllm(tasks=[task("headed", lm_head=True)]), task="headed").score_choices([])

    fake = FakeVllm()
    model = served(fake, at_once=1)
    list(model.score_choices([example("what?", "cat")]))
    fake.answer = "assistant\nno "
    fake.joins = True
    with pytest.raises(EngineError, match="expected prompt_logprobs of a choice's tokens, came others"):
        list(model.score_choices([example("what?", "cat")]))


def test_generation_is_greedy_and_free() -> None:
    fake = FakeVllm(tasks=[task("closed", usage={"choices": ["cat", "dog"]})])
    assert list(served(fake, task="closed").generate([example("abc"), example("xy")], 7)) == ["cba", "yx"]
    assert [body["max_tokens"] for body in fake.chats] == [7, 7]
    assert all(body["temperature"] == 0.0 for body in fake.chats)
    assert all(body["response_format"] == {"type": "text"} for body in fake.chats)
    assert not any("structured_outputs" in body for body in fake.chats)


@pytest.mark.parametrize(
    ("name", "given", "held_to"),
    [(None, None, ["é", "b"]), ("closed", None, ["cat", "dog"]), ("closed", ("yes", "no"), ["yes", "no"])],
)
def test_structured_answers_are_held_to_the_nearest_choices(
    name: str | None, given: tuple[str, ...] | None, held_to: list[str]
) -> None:
    fake = FakeVllm(tasks=[task("closed", usage={"choices": ["cat", "dog"]})])
    assert list(served(fake, task=name).structured([example("abc", "é", "b")], given)) == ["cba"]
    assert fake.chats[0]["structured_outputs"] == {"choice": held_to}
    assert fake.chats[0]["max_tokens"] == 1 + max(len(one.encode()) for one in held_to)
    assert "response_format" not in fake.chats[0]


def test_answers_keep_their_order_and_no_more_are_under_way_than_asked_for() -> None:
    """Three at a time meet at the server, never two; the very first is answered after the third."""
    three, third = threading.Barrier(3, timeout=20), threading.Event()

    def before(body: Body) -> None:
        three.wait()
        if text_of(body) == "00":
            assert third.wait(20)
        if text_of(body) == "02":
            third.set()

    fake = FakeVllm(before=before)
    questions = [f"{number:02}" for number in range(12)]
    answers = served(fake, at_once=3).generate(map(example, questions), 3)
    assert list(answers) == [question[::-1] for question in questions]
    assert fake.most_at_once == 3


def test_examples_are_drawn_when_their_turn_comes() -> None:
    drawn = []

    def draw() -> Iterator[Example]:
        for number in range(100):
            drawn.append(number)
            yield example(str(number))

    answers = served(FakeVllm(), at_once=2).generate(draw(), 3)
    assert next(answers) == "0"
    assert len(drawn) == 3
    answers.close()  # type: ignore[attr-defined]
    assert len(drawn) == 3


def test_one_bad_answer_ends_it() -> None:
    def before(body: Body) -> httpx.Response | None:
        error = {"message": "messages: expected one picture, came none; send one", "code": "picture_required"}
        return httpx.Response(400, json={"error": error}) if text_of(body) == "5" else None

    fake = FakeVllm(before=before)
    answers = served(fake, at_once=2).generate((example(str(number)) for number in range(100)), 3)
    with pytest.raises(InputError, match="status 400: messages: expected one picture, came none; send one"):
        list(answers)
    assert len(fake.chats) < 12


def refused(status: int, **answer: Any) -> FakeVllm:
    return FakeVllm(before=lambda body: httpx.Response(status, **answer))


@pytest.mark.parametrize(
    ("fake", "options", "kind", "words"),
    [
        (FakeVllm(tasks=[task("a"), task("b")]), {"task": "c"}, TaskNotFoundError, "one of: a, b, came 'c'"),
        (FakeVllm(tasks=None), {"task": "c"}, ConfigError, "task: expected a server of tasks, came none at"),
        (
            FakeVllm(name="qwen"),
            {},
            ConfigError,
            "served_model: expected one of: 'qwen', came 'base'; name one of them (`--served-model NAME`)",
        ),
        (refused(401), {}, ConfigError, "api key: expected one the server takes, came status 401"),
        (refused(404, json={"error": {"message": "gone"}}), {}, InputError, "status 404: gone; correct"),
        (refused(500, text="<html>"), {}, EngineError, "came status 500: <html>; look into the server's log"),
        (refused(502), {}, EngineError, "came status 502: no words"),
        (refused(200, text="hello"), {}, ConfigError, "expected a JSON object, came 'hello'"),
        (refused(200, json=[1]), {}, ConfigError, "expected a JSON object"),
    ],
)
def test_what_is_wrong_is_said(
    fake: FakeVllm, options: dict[str, Any], kind: type[PassepartoutError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        list(served(fake, **options).generate([example("what?")], 3))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (
            httpx.ConnectError("refused"),
            ConfigError,
            f"expected a running server, came none at {URL} (refused)",
        ),
        (
            httpx.ReadTimeout("late"),
            EngineError,
            "GET /v1/models: expected an answer within 300 s, came none",
        ),
    ],
)
def test_a_server_that_does_not_answer_is_said(
    raised: Exception, kind: type[PassepartoutError], words: str
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    model = ServedModel(URL, task=None, transport=httpx.MockTransport(fail))
    with pytest.raises(kind) as caught:
        model.generate([], 3)
    assert words in str(caught.value)


def test_a_server_without_room_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    full = httpx.Response(503, json={"error": {"message": "no room", "code": "capacity"}})
    fake = FakeVllm(before=lambda body: full if len(fake.chats) < 3 else None)
    assert list(served(fake).generate([example("abc")], 3)) == ["cba"]
    assert len(pauses) == 2

    fake = FakeVllm(before=lambda body: full)
    with pytest.raises(EngineError, match="status 503: no room"):
        list(served(fake).generate([example("abc")], 3))
    assert len(fake.chats) == served_client._TRIES


def test_what_a_server_says_of_itself_is_asked_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    fake = FakeVllm(tasks=[task("plain")], full=["/v1/models", "/v1/tasks", "/v1/tasks"])
    assert served(fake, task="plain").connect().digest == DIGEST
    assert len(pauses) == 3

    fake = FakeVllm(tasks=[task("plain")], full=["/v1/tasks"] * served_client._TRIES)
    with pytest.raises(EngineError, match=r"GET /v1/tasks: expected an answer, came status 503: no room"):
        served(fake, task="plain").connect()
    assert fake.full == []


def test_a_model_of_another_name_is_asked_by_it() -> None:
    fake = FakeVllm(name="qwen", tasks=None)
    assert list(served(fake, model="qwen").generate([example("abc")], 5)) == ["cba"]
    assert fake.chats[0]["model"] == "qwen"


def test_another_bundle_under_the_same_name_ends_the_measure() -> None:
    fake = FakeVllm(tasks=[task("plain")])
    model = served(fake, task="plain")
    assert model.connect().digest == DIGEST
    fake.digest = "e" * 64
    with pytest.raises(EngineError, match=r"X-Task-Digest: expected 'd.*, came 'e.*the store changed"):
        list(model.generate([example("abc")], 3))


@pytest.mark.parametrize("ask", ["score_choices", "structured"])
def test_an_example_without_choices_is_refused(ask: str) -> None:
    with pytest.raises(ConfigError, match="how: expected choices to decide between, came an example without"):
        list(getattr(served(FakeVllm()), ask)([example("what?")]))


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_may_end_in_v1(end: str) -> None:
    with ServedModel(URL + end, task=None, transport=FakeVllm().transport) as model:
        assert list(model.generate([example("ab")], 3)) == ["ba"]
    with pytest.raises(RuntimeError, match="closed"):
        list(model.generate([example("ab")], 3))


def test_faults_of_the_options_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ServedModel("somewhere:8000", task=None, at_once=0)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["address", "at_once"]
    with pytest.raises(ConfigError, match="address: expected http://HOST:PORT"):
        ServedModel("http://somewhere:port", task=None)


def test_a_picture_with_transparency_is_sent_as_trainers_see_it() -> None:
    fake = FakeVllm()
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    list(served(fake).generate([example("what?", picture=clear)], 3))
    assert picture_of(fake.chats[0]).getpixel((0, 0)) == (255, 255, 255)
