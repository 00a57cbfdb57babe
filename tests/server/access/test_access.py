"""Keys over HTTP on the fake server: who is let in where, and what a key may ask."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from starlette.websockets import WebSocket

from server.access.caller import CURRENT_CALLER
from server.access.open_keys import OpenKeys
from tests.server.access.guarded import QUESTION, Guarded, code


def test_without_a_key_the_probes_alone_are_answered(guarded: Guarded) -> None:
    for path in ("/v1/models", "/v1/tasks", "/metrics", "/openapi.json", "/docs"):
        assert code(guarded.get(None, path)) == (401, "invalid_api_key")
    response = guarded.ask(None)
    assert code(response) == (401, "invalid_api_key")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert code(guarded.ask("nobody")) == (401, "invalid_api_key")
    assert guarded.server.seen == []
    ready = guarded.get(None, "/ready")
    assert (ready.status_code, set(ready.json())) == (503, {"status"})
    assert guarded.get("nobody", "/ready").json() == ready.json()


def test_ready_tells_a_key_what_it_may_know(guarded: Guarded) -> None:
    user = guarded.get("one", "/ready").json()
    assert (set(user), list(user["tasks"])) == ({"status", "model", "tasks"}, ["plain"])
    told = guarded.get("boss", "/ready").json()
    assert (told["keys_refused"], len(told["tasks"]) > 4) == ([], True)
    assert "broken" in [one["bundle"] for one in told["refused"]]
    assert guarded.server.service.access.book is not None
    guarded.server.service.access.book.faults = ["keys: expected a list"]
    assert guarded.get("boss", "/ready").json()["keys_refused"] == ["keys: expected a list"]


def test_a_user_is_no_admin_and_a_scraper_no_user(guarded: Guarded) -> None:
    for path in ("/collective_rpc", "/sleep", "/update_weights", "/v1/load_lora_adapter", "/abort_requests"):
        assert code(guarded.ask("all", path)) == (403, "forbidden")
        assert guarded.ask("boss", path).status_code == 404  # the fake has no such route; vLLM's router spoke
    assert code(guarded.get("all", "/metrics")) == (403, "forbidden")
    assert code(guarded.get("scraper", "/metrics"))[0] == 404
    assert code(guarded.ask("scraper")) == (403, "forbidden")
    for path in ("/v1/models", "/v1/tasks", "/v1/tasks/plain", "/version", "/docs"):
        assert code(guarded.get("scraper", path)) == (403, "forbidden")
    assert guarded.get("scraper", "/ready").status_code == 503  # public; the fake's engine is not up
    assert code(guarded.ask("all", "/v1/tasks/plain", "DELETE")) == (403, "forbidden")


def test_what_is_not_listed_is_answered_for_nobody(guarded: Guarded) -> None:
    guarded.server.app.add_api_route("/secret", lambda: "told", methods=["GET"])
    for name in (None, "all", "boss"):
        for path in ("/secret", "/v1/models/", "//v1/models", "/v1%2Fmodels", "/nosuch"):
            assert code(guarded.get(name, path)) == (404, "route_not_found")


def test_an_open_server_lets_everybody_ask_and_nobody_rule(unguarded: Guarded) -> None:
    assert unguarded.ask(None).status_code == 200
    assert unguarded.ask("nobody").status_code == 200
    assert unguarded.get(None, "/v1/models").status_code == 200
    response = unguarded.ask(None, "/collective_rpc")
    assert code(response) == (403, "forbidden")
    assert "--keys FILE" in response.json()["error"]["message"]
    assert "refused" in unguarded.get(None, "/ready").json()


def test_vllms_own_key_is_asked_for_where_vllm_does_not(unguarded: Guarded) -> None:
    unguarded.server.service.access.open_keys = OpenKeys.of(["key-of-all", "key-of-more"])
    for path in ("/invocations", "/tokenize"):
        assert code(unguarded.ask(None, path)) == (401, "invalid_api_key")
        assert code(unguarded.ask("nobody", path)) == (401, "invalid_api_key")
        assert unguarded.ask("more", path).status_code == 200
    assert unguarded.get(None, "/ready").status_code == 503


def test_a_key_asks_its_tasks_and_no_others(guarded: Guarded) -> None:
    assert guarded.ask("one", task="plain").headers["X-Task"] == "plain"
    for body in ({"task": "classes"}, {"task": "unheard-of"}, {"model": "base:classes"}, {}):
        response = guarded.ask("one", **body)
        assert code(response) == (403, "forbidden")
        assert response.json()["error"]["param"] == "task"
        assert "X-Task" not in response.headers
    missing = guarded.ask("one", task="nosuch")
    assert code(missing) == (404, "task_not_found")
    assert "plain" in missing.json()["error"]["message"]
    assert "classes" not in missing.json()["error"]["message"]
    del guarded.server.service.tasks.tasks["plain"]
    for none_left in (guarded.ask("one", task="nosuch"), guarded.get("one", "/v1/tasks/nosuch")):
        assert "one of: none that this key may ask, came 'nosuch'" in none_left.json()["error"]["message"]
    assert "classes" in guarded.ask("boss", task="nosuch").json()["error"]["message"]
    assert guarded.ask("all").status_code == guarded.ask("boss", task="classes").status_code == 200


@pytest.mark.parametrize("path", ["/v1/embeddings", "/inference/v1/generate", "/tokenize", "/invocations"])
def test_routes_without_a_task_are_the_base_models(guarded: Guarded, path: str) -> None:
    assert code(guarded.ask("one", path)) == (403, "forbidden")
    assert guarded.ask("all", path).status_code == 200


def test_a_key_sees_its_tasks_alone(guarded: Guarded) -> None:
    assert [task["id"] for task in guarded.get("one", "/v1/tasks").json()["data"]] == ["plain"]
    assert [model["id"] for model in guarded.get("one", "/v1/models").json()["data"]] == [
        "base",
        "base:plain",
    ]
    assert len(guarded.get("boss", "/v1/tasks").json()["data"]) > 4
    for path in ("/v1/tasks/framed", "/v1/tasks/framed/preview.png", "/v1/tasks/unheard-of"):
        assert code(guarded.get("one", path)) == (403, "forbidden")
    assert guarded.get("one", "/v1/tasks/plain").status_code == 200


def test_the_caller_is_known_inside_and_forgotten_outside(guarded: Guarded) -> None:
    names: list[str | None] = []

    async def tell() -> str:
        caller = CURRENT_CALLER.get()
        names.append(caller.name if caller else None)
        return "told"

    guarded.server.app.add_api_route("/v1/tasks/{name}/preview.png", tell, methods=["PUT"])

    async def ask(client: httpx.AsyncClient) -> tuple[int, object]:
        headers = {"Authorization": "Bearer key-of-boss"}
        answer = await client.put("/v1/tasks/plain/preview.png", headers=headers)
        return answer.status_code, CURRENT_CALLER.get()  # in the very context that the app ran in

    assert guarded.run(ask) == (200, None)
    assert names == ["boss"]


def test_anthropics_clients_send_their_own_header(guarded: Guarded) -> None:
    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        keys = ("key-of-all", "nobodys")
        return [await client.post("/v1/messages", json=QUESTION, headers={"X-API-Key": key}) for key in keys]

    good, bad = guarded.run(ask)
    assert good.status_code == 200
    assert (bad.status_code, bad.json()["type"], bad.json()["error"]["code"]) == (
        401,
        "error",
        "invalid_api_key",
    )


def test_openai_python_sees_its_own_errors(guarded: Guarded) -> None:
    async def ask(client: httpx.AsyncClient, key: str, **extra: Any) -> Any:
        async with openai.AsyncOpenAI(
            base_url="http://test/v1", api_key=key, max_retries=0, http_client=client
        ) as ours:
            return await ours.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "?"}], extra_body=extra
            )

    assert guarded.run(lambda client: ask(client, "key-of-all")).choices[0].message.content
    for key, extra, kind in (
        ("nobodys", {}, openai.AuthenticationError),
        ("key-of-one", {"task": "classes"}, openai.PermissionDeniedError),
    ):
        with pytest.raises(kind):
            guarded.run(lambda client, key=key, extra=extra: ask(client, key, **extra))
    guarded.ask("slow")
    guarded.ask("slow")
    with pytest.raises(openai.RateLimitError) as caught:
        guarded.run(lambda client: ask(client, "key-of-slow"))
    assert caught.value.code == "rate_limit_exceeded"


def websocket(
    guarded: Guarded, key: str | None, *, path: str = "/v1/realtime", task: str | None = None
) -> list[dict[str, Any]]:
    """What a client of a WebSocket is sent."""
    sent: list[dict[str, Any]] = []
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    headers += [] if task is None else [(b"x-task", task.encode())]
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "subprotocols": []}

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guarded.server.app(scope, receive, send))
    return sent


@pytest.fixture
def talking(guarded: Guarded) -> Guarded:
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    guarded.server.app.add_api_websocket_route("/v1/realtime", talk)
    return guarded


def test_a_websocket_wants_a_key_too(talking: Guarded) -> None:
    assert [one["type"] for one in websocket(talking, "key-of-all")] == [
        "websocket.accept",
        "websocket.close",
    ]
    for key in (None, "nobodys", "key-of-one", "key-of-scraper"):
        (closed,) = websocket(talking, key)
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    assert websocket(talking, "key-of-all", path="/v1/realtime/")[0]["reason"] == "route_not_found"


def test_a_websocket_takes_no_task(talking: Guarded) -> None:
    (closed,) = websocket(talking, "key-of-all", task="plain")
    assert (closed["type"], closed["reason"]) == ("websocket.close", "unsupported")


def test_the_words_of_a_refusal_name_no_key(guarded: Guarded) -> None:
    text = guarded.ask("nobody").text + guarded.ask("one").text
    assert "key-of-" not in text
    assert json.loads(guarded.ask("nobody").text)["error"]["code"] == "invalid_api_key"
