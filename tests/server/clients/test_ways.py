"""Field, header and alias name a task on each endpoint that generates, and no endpoint differs."""

from typing import Any

import httpx
import pytest

from server.surface import ROUTES, Shape
from tests.server.conftest import Site

SAID: dict[Shape, dict[str, Any]] = {
    Shape.CHAT: {"messages": [{"role": "user", "content": "?"}]},
    Shape.BATCH: {"messages": [[{"role": "user", "content": "?"}]]},
    Shape.TEXT: {"prompt": "?"},
    Shape.RESPONSES: {"input": "?"},
    Shape.ANTHROPIC: {"messages": [{"role": "user", "content": "?"}], "max_tokens": 8},
}
GENERATING = [path for path, route in ROUTES.items() if route.generates and route.shape]
# vLLM's own handler of it is not faked: a batch differs from a chat in its shape alone.
FAKED = [path for path in GENERATING if path != "/v1/chat/completions/batch"]
WAYS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "field": ({}, {"model": "base", "task": "plain"}),
    "field alone": ({}, {"task": "plain"}),
    "header": ({"X-Task": "plain"}, {"model": "base"}),
    "alias": ({}, {"model": "base:plain"}),
    "all three": ({"X-Task": "plain"}, {"model": "base:plain", "task": "plain"}),
}


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def ask(site: Site, path: str, headers: dict[str, str], body: dict[str, Any]) -> httpx.Response:
    shape = ROUTES[path].shape
    assert shape is not None
    return site.client.post(path, json=SAID[shape] | body, headers=headers)


def test_discovery_finds_the_endpoints() -> None:
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"} <= set(FAKED)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", FAKED)
def test_each_way_is_the_same_on_each_endpoint(site: Site, path: str, way: str, stream: bool) -> None:
    headers, body = WAYS[way]
    answer = ask(site, path, headers, body | {"stream": stream})
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Task"] == "plain"
    assert answer.headers["X-Task-Digest"] == site.server.service.tasks.find("plain").digest
    assert "plain" in answer.text
    assert "nobody" not in answer.text
    assert site.server.seen[-1].get("model") in (None, "base")  # vLLM knows no other


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", [path for path in FAKED if ROUTES[path].shape is not Shape.TEXT])
def test_tools_go_with_a_task(site: Site, path: str, way: str) -> None:
    headers, body = WAYS[way]
    answer = ask(site, path, headers, body | {"tools": TOOLS, "tool_choice": "auto"})
    assert (answer.status_code, answer.headers["X-Task"]) == (200, "plain")
    assert "plain" in answer.text
    seen = site.server.seen[-1]
    assert (seen["tools"], seen["tool_choice"]) == (TOOLS, "auto")


@pytest.mark.parametrize("path", FAKED)
def test_without_one_the_base_model_answers(site: Site, path: str) -> None:
    answer = ask(site, path, {}, {"model": "base"})
    assert "nobody says" in answer.text
    assert "X-Task" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"X-Task": "nosuch"}, {}, (404, "task_not_found")),
        ({}, {"task": "nosuch"}, (404, "task_not_found")),
        ({}, {"model": "base:nosuch"}, (404, "task_not_found")),
        ({"X-Task": "plain"}, {"task": "classes"}, (400, "task_conflict")),
        ({"X-Task": "plain"}, {"model": "base:classes"}, (400, "task_conflict")),
    ],
)
@pytest.mark.parametrize("path", FAKED)
def test_a_wrong_name_is_refused_alike(
    site: Site, path: str, headers: dict[str, str], body: dict[str, Any], expected: tuple[int, str]
) -> None:
    answer = ask(site, path, headers, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == expected


@pytest.mark.parametrize("name", ["base", "base:plain"])
def test_a_model_is_shown_as_it_is_listed(site: Site, name: str) -> None:
    listed = {one["id"]: one for one in site.client.get("/v1/models").json()["data"]}
    shown = site.client.get(f"/v1/models/{name}")
    assert (shown.status_code, shown.json()) == (200, listed[name])


@pytest.mark.parametrize("name", ["nosuch", "base:nosuch", "base:broken", "plain"])
def test_a_model_that_is_not_listed_is_404(site: Site, name: str) -> None:
    answer = site.client.get(f"/v1/models/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"
