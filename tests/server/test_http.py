"""Naming a task over HTTP: by field, header and alias; what is refused, and what every answer carries."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.app import start
from server.config import ServeConfig
from tests.server.conftest import Site
from tests.server.fake import FakeLoader, make_server, picture_url

CHAT = "/v1/chat/completions"


def ask(site: Site, path: str = CHAT, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    """Ask the question of all tests, with `body` on top."""
    question = {"model": "base", "messages": [{"role": "user", "content": "what is it?"}]}
    return site.client.post(path, json=question | body, headers=headers)


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return {**error, "status": response.status_code}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, {"task": "plain"}),
        ({"X-Task": "plain"}, {}),
        ({}, {"model": "base:plain"}),
        ({"X-Task": "plain"}, {"model": "base:plain", "task": "plain"}),
    ],
    ids=["field", "header", "alias", "all"],
)
def test_a_task_is_named_in_three_ways(site: Site, headers: dict[str, str], body: dict[str, Any]) -> None:
    response = ask(site, headers=headers, **body)
    assert said(response) == "plain says anything"
    assert response.headers["X-Task"] == "plain"
    assert response.headers["X-Task-Digest"] == site.server.service.tasks.find("plain").digest
    assert response.json()["model"] == body.get("model", "base")
    assert site.server.seen[-1]["model"] == "base"


@pytest.mark.parametrize("body", [{}, {"task": None}], ids=["absent", "null"])
def test_without_a_task_the_request_passes_untouched(site: Site, body: dict[str, Any]) -> None:
    raw = b'{"messages": [{"role": "user", "content": "hi"}],   "odd_field": 1}'
    response = site.client.post(CHAT, content=raw)
    assert said(response) == "nobody says anything"
    assert site.server.seen_raw[-1] == raw
    assert said(ask(site, **body)) == "nobody says anything"
    assert "X-Task" not in response.headers


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"X-Task": "plain"}, {"task": "classes"}),
        ({}, {"task": "plain", "model": "base:classes"}),
        ({"X-Task": "plain"}, {"model": "base:classes"}),
    ],
)
def test_two_names_that_differ_are_a_conflict(
    site: Site, headers: dict[str, str], body: dict[str, Any]
) -> None:
    error = error_of(ask(site, headers=headers, **body))
    assert (error["status"], error["code"], error["param"]) == (400, "task_conflict", "task")
    assert "'plain'" in error["message"]
    assert "'classes'" in error["message"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, {"task": "nosuch"}), ({"X-Task": "nosuch"}, {}), ({}, {"model": "base:nosuch"})],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_task_is_404_and_never_the_base_model(
    site: Site, headers: dict[str, str], body: dict[str, Any], stream: bool
) -> None:
    reached = len(site.server.seen)
    error = error_of(ask(site, headers=headers, stream=stream, **body))
    assert (error["status"], error["code"], error["type"]) == (404, "task_not_found", "invalid_request_error")
    assert "plain" in error["message"]
    assert len(site.server.seen) == reached


@pytest.mark.parametrize("name", ["broken", "homeless"])
def test_a_refused_bundle_is_an_unknown_task(site: Site, name: str) -> None:
    assert error_of(ask(site, task=name))["code"] == "task_not_found"


@pytest.mark.parametrize("task", ["", 7, 1.5, True, ["plain"], {"name": "plain"}])
def test_a_task_that_is_no_name_is_400(site: Site, task: object) -> None:
    error = error_of(ask(site, task=task))
    assert (error["status"], error["code"]) == (400, "invalid_input")
    assert "body field task" in error["message"]


@pytest.mark.parametrize(("headers", "model"), [({"X-Task": ""}, "base"), ({}, "base:")])
def test_an_empty_name_is_400_wherever_it_stands(site: Site, headers: dict[str, str], model: str) -> None:
    assert error_of(ask(site, headers=headers, model=model))["code"] == "invalid_input"


def test_a_long_name_is_not_echoed_whole(site: Site) -> None:
    assert len(ask(site, task="x" * 100_000).content) < 1000


def test_a_foreign_model_is_vllms_to_refuse(site: Site) -> None:
    response = ask(site, model="other:plain")
    assert error_of(response)["code"] == 404
    assert "X-Task" not in response.headers


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b'"x"', b""])
def test_a_body_that_is_no_json_object_is_vllms_to_refuse(site: Site, content: bytes) -> None:
    response = site.client.post(CHAT, content=content, headers={"X-Task": "plain"})
    assert response.status_code == 400
    assert site.server.seen_raw[-1] == content


def test_a_stream_carries_the_task_in_its_head(site: Site) -> None:
    body = {"model": "base:plain", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with site.client.stream("POST", CHAT, json=body) as response:
        assert response.headers["X-Task"] == "plain"
        assert len(response.headers["X-Task-Digest"]) == 64
        text = response.read().decode()
    assert text.count('"model": "base:plain"') == 3
    assert text.endswith("data: [DONE]\n\n")


def test_an_error_of_a_task_names_it_too(site: Site) -> None:
    response = ask(site, task="framed")
    assert error_of(response)["code"] == "picture_required"
    assert response.headers["X-Task"] == "framed"


@pytest.mark.parametrize("path", ["/inference/v1/generate", "/v1/embeddings"])
def test_a_route_that_takes_no_task_says_so(site: Site, path: str) -> None:
    reached = len(site.server.seen)
    error = error_of(ask(site, path, headers={"X-Task": "plain"}))
    assert (error["status"], error["code"]) == (400, "unsupported")
    assert "/v1/chat/completions" in error["message"]
    assert len(site.server.seen) == reached


@pytest.mark.parametrize("root", ["", "/", "/api", "/v", "/v1"])
def test_a_path_is_read_as_the_router_reads_it(root: str, store: Path) -> None:
    """Behind a proxy (`--root-path`): whatever reaches a route reaches its task too."""
    server = make_server()
    asyncio.run(start(server.service, ServeConfig(tasks=store), base_names=("base",), loader=FakeLoader()))
    server.app.root_path = root

    async def ask_all() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"messages": [{"role": "user", "content": "?"}], "task": "plain"}
            return [await client.post(path, json=body) for path in (CHAT, root + CHAT)]

    answers = asyncio.run(ask_all())
    reached = [answer for answer in answers if answer.status_code != 404]
    assert reached
    for answer in reached:
        assert (said(answer), answer.headers.get("X-Task")) == ("plain says anything", "plain")


@pytest.mark.parametrize(
    "hashes",
    [{"learned_prompt": ["x"]}, {"image": ["a", "passepartout:ab:1"]}, {"image": "passepartout:ab:1"}],
)
def test_items_under_our_hashes_are_refused_where_items_are_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch, hashes: dict[str, object]
) -> None:
    monkeypatch.setattr(site.server.service.access, "open_fields", frozenset({"uuid"}))
    reached = len(site.server.seen)
    response = ask(site, "/inference/v1/generate", features={"mm_hashes": hashes})
    error = error_of(response)
    assert (error["status"], error["code"]) == (400, "invalid_input")
    assert "features.mm_hashes" in error["message"]
    assert len(site.server.seen) == reached
    own = ask(site, "/inference/v1/generate", features={"mm_hashes": {"image": ["a"]}})
    assert own.status_code == 200


def test_tensors_of_a_client_are_refused_where_items_are_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item of theirs could name a task's rows as our own items do."""
    monkeypatch.setattr(site.server.service.access, "open_fields", frozenset({"uuid"}))
    reached = len(site.server.seen)
    features = {"mm_hashes": {"image": ["a"]}, "kwargs_data": {"image": ["AAAA"]}}
    error = error_of(ask(site, "/inference/v1/generate", features=features))
    assert (error["status"], error["code"]) == (400, "invalid_input")
    assert "features.kwargs_data: expected null" in error["message"]
    assert len(site.server.seen) == reached


def test_another_routes_own_field_task_passes(site: Site) -> None:
    assert ask(site, "/v1/embeddings", task="embed").status_code == 200
    assert ask(site, "/invocations", messages=None, prompt="x", task="plain").headers["X-Task"] == "plain"
    embedded = ask(site, "/invocations", messages=None, prompt_embeds="x", task="plain")
    assert embedded.headers["X-Task"] == "plain"


def test_anthropics_route_has_errors_in_its_own_shape(site: Site) -> None:
    response = ask(site, "/v1/messages", task="nosuch")
    assert response.status_code == 404
    assert (response.json()["type"], response.json()["error"]["code"]) == ("error", "task_not_found")


def test_concurrent_requests_do_not_mix(site: Site) -> None:
    names = ["plain", "classes", "spoken", "renamed", None] * 20
    site.server.engine.pause_seconds = 0.005

    async def ask_all() -> list[str]:
        async with httpx.AsyncClient(base_url=site.url, timeout=20) as client:
            bodies = [{"messages": [{"role": "user", "content": "?"}], "task": name} for name in names]
            answers = await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))
        return [said(answer).partition(" ")[0] for answer in answers]

    try:
        assert asyncio.run(ask_all()) == [name or "nobody" for name in names]
    finally:
        site.server.engine.pause_seconds = 0.0


def test_openai_python_asks_for_a_task(site: Site) -> None:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "what is it?"}],
            extra_body={"task": "classes"},
        )
        assert answer.choices[0].message.content == "classes says cat"
        stream = client.chat.completions.create(
            model="base:plain", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert "".join(event.choices[0].delta.content or "" for event in stream) == "plain says anything "
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "?"}], extra_body={"task": "nosuch"}
            )
        assert caught.value.code == "task_not_found"
        names = [model.id for model in client.models.list()]
        assert names == ["base", "base:classes", "base:framed", "base:plain", "base:renamed", "base:spoken"]


def test_a_picture_with_a_frame_is_answered(site: Site) -> None:
    content = [{"type": "image_url", "image_url": {"url": picture_url()}}]
    assert said(ask(site, task="framed", messages=[{"role": "user", "content": content}])) == (
        "framed says anything"
    )


@pytest.mark.parametrize("task", [None, "plain"])
def test_what_vllm_did_not_foresee_is_an_error_object_without_its_words(
    site: Site, task: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    response = ask(site, task=task, explode=1)
    error = error_of(response)
    assert (error["status"], error["code"], error["type"]) == (500, "internal_error", "server_error")
    assert "0x7f00" not in response.text
    assert "0x7f00" in caplog.text
    assert response.headers.get("X-Task") == task
    assert said(ask(site, task="plain")) == "plain says anything"
