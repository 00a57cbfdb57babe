"""What a key may take over HTTP: how much, in what fields, out of whose cache."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest

from server.access.body import Bodies
from server.access.caller import CURRENT_CALLER
from server.access.gate import Gate
from server.vllm_engine import watch_encode
from tests.server.access.guarded import CHAT, QUESTION, Guarded, code
from tests.server.fake import picture_url


def test_requests_are_limited_and_say_what_is_left(guarded: Guarded) -> None:
    first = guarded.ask("slow")
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert guarded.ask("slow").status_code == 200
    refused = guarded.ask("slow")
    assert code(refused) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert (refused.headers["Retry-After"], refused.headers["x-ratelimit-remaining-requests"]) == ("30", "0")
    assert guarded.get("slow", "/v1/models").status_code == 200
    assert guarded.ask("all").status_code == 200
    assert "x-ratelimit-limit-requests" not in guarded.ask("all").headers
    guarded.now += 30
    assert guarded.ask("slow").status_code == 200


@pytest.mark.parametrize(("stream", "left"), [(False, ["2", "0"]), (True, ["10", "2"])])
def test_tokens_are_counted_when_they_are_known(guarded: Guarded, stream: bool, left: list[str]) -> None:
    """Five of the prompt, three of the answer; a stream's head goes out before they are."""
    answers = [guarded.ask("poor", stream=stream) for _ in left]
    assert [answer.headers["x-ratelimit-remaining-tokens"] for answer in answers] == left
    refused = guarded.ask("poor", stream=stream)
    assert code(refused) == (429, "rate_limit_exceeded")
    assert refused.headers["Retry-After"] == "42"  # seven of ten a minute
    guarded.now += 42
    assert guarded.ask("poor", stream=stream).status_code == 200


def test_requests_at_a_time_and_the_place_of_one_that_left(guarded: Guarded) -> None:
    guarded.server.engine.pause_seconds = 0.05

    async def two(client: httpx.AsyncClient) -> list[tuple[int, str | None]]:
        headers = {"Authorization": "Bearer key-of-slow"}
        answers = await asyncio.gather(*(client.post(CHAT, json=QUESTION, headers=headers) for _ in range(2)))
        return sorted(code(answer) for answer in answers)

    assert guarded.run(two) == [(200, None), (429, "rate_limit_exceeded")]

    async def leave(client: httpx.AsyncClient) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            headers = {"Authorization": "Bearer key-of-slow"}
            await asyncio.wait_for(client.post(CHAT, json=QUESTION, headers=headers), 0.01)

    guarded.now += 600
    guarded.run(leave)
    assert guarded.server.service.access.gate.under_way == 0
    assert guarded.ask("slow").status_code == 200


def test_a_full_queue_is_503_and_the_next_is_answered(guarded: Guarded) -> None:
    guarded.server.service.access.gate = Gate(lambda: guarded.now, running=1, queued=1)
    guarded.server.engine.pause_seconds = 0.05

    async def three(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {"Authorization": "Bearer key-of-all"}
        asked = [client.post(CHAT, json=QUESTION, headers=headers) for _ in range(3)]
        asked.append(client.get("/v1/models", headers=headers))
        return list(await asyncio.gather(*asked))

    answers = guarded.run(three)
    assert [answer.status_code for answer in answers] == [200, 200, 503, 200]
    assert code(answers[2]) == (503, "overloaded")
    assert answers[2].json()["error"]["type"] == "server_error"
    assert int(answers[2].headers["Retry-After"]) >= 1
    assert guarded.ask("all").status_code == 200


def test_a_body_is_counted_while_it_is_read(guarded: Guarded) -> None:
    guarded.server.service.access.max_body_mb = 1
    read: list[int] = []

    async def chunks() -> Any:
        for _ in range(100):
            read.append(1)
            yield b"x" * 100_000

    async def stream(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
        return await client.post(
            CHAT, content=chunks(), headers=headers | {"Authorization": "Bearer key-of-all"}
        )

    assert code(guarded.run(lambda client: stream(client, {}))) == (413, "request_too_large")
    assert len(read) == 11
    read.clear()
    declared = guarded.run(lambda client: stream(client, {"Content-Length": "10000000"}))
    assert (code(declared), read) == ((413, "request_too_large"), [])
    assert guarded.server.service.access.gate.under_way == 0
    assert guarded.ask("all", filler="x" * 900_000).status_code == 200


def test_a_body_that_does_not_come_is_waited_for_no_longer(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.access.body._BODY_SECONDS", 0.0)

    async def half() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(CHAT, content=half(), headers={"Authorization": "Bearer key-of-slow"})

    refused = guarded.run(ask)
    assert code(refused) == (408, "request_timeout")
    assert refused.headers["Connection"] == "close"
    assert guarded.server.seen == []
    assert guarded.server.service.access.bodies.held == 0
    monkeypatch.undo()
    assert guarded.ask("slow").status_code == 200  # which may ask one at a time


def test_bodies_are_held_up_to_a_number_of_bytes(guarded: Guarded) -> None:
    bodies = guarded.server.service.access.bodies = Bodies(1)
    guarded.server.engine.pause_seconds = 0.05

    async def two(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {"Authorization": "Bearer key-of-all"}
        asked = [
            client.post(CHAT, json=QUESTION | {"filler": "x" * 600_000}, headers=headers) for _ in range(2)
        ]
        return list(await asyncio.gather(*asked))

    first, second = guarded.run(two)
    assert (first.status_code, code(second)) == (200, (503, "overloaded"))
    assert second.headers["Retry-After"] == "1"
    assert bodies.held == 0
    assert guarded.ask("all", filler="x" * 600_000).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_salt", "mine"),
        ("chat_template", "{{ 1 }}"),
        ("chat_template_kwargs", {"a": 1}),
        ("priority", -5),
        ("features", {"mm_hashes": {"image": ["a"]}}),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/messages"])
def test_fields_that_reach_beyond_the_key_want_its_leave(
    guarded: Guarded, path: str, field: str, value: object
) -> None:
    response = guarded.ask("all", path, **{field: value})
    assert code(response) == (403, "forbidden")
    assert response.json()["error"]["param"] == field
    assert guarded.server.seen == []
    assert guarded.ask("all", path, **{field: None}).status_code == 200
    assert guarded.ask("free", path, **{field: value}).status_code == 200
    assert guarded.ask("boss", path, **{field: value}).status_code == 200


@pytest.mark.parametrize("carrier", ["vllm_xargs", "sampling_params.extra_args"])
def test_a_field_is_found_where_else_vllm_reads_it(guarded: Guarded, carrier: str) -> None:
    inner: dict[str, Any] = {"kv_transfer_params": {"remote_host": "x"}}
    for name in reversed(carrier.split(".")):
        inner = {name: inner}
    refused = guarded.ask("all", "/inference/v1/generate", **inner)
    assert code(refused) == (403, "forbidden")
    assert refused.json()["error"]["param"] == f"{carrier}.kv_transfer_params"


def test_a_pictures_uuid_wants_leave_and_a_clients_own_words_do_not(guarded: Guarded) -> None:
    part = {"type": "image_url", "image_url": {"url": picture_url()}, "uuid": "of-another"}
    messages = [{"role": "user", "content": [part]}]
    refused = guarded.ask("all", messages=messages)
    assert code(refused) == (403, "forbidden")
    assert refused.json()["error"]["param"] == "messages[0].content[0].uuid"
    assert guarded.ask("free", messages=messages).status_code == 200
    tools = [{"function": {"parameters": {"properties": {"uuid": {"type": "string"}}}}}]
    assert guarded.ask("all", metadata={"uuid": "x"}, tools=tools).status_code == 200


def test_stored_responses_want_leave(guarded: Guarded) -> None:
    assert code(guarded.get("all", "/v1/responses/resp_1")) == (403, "forbidden")
    assert code(guarded.ask("all", "/v1/responses/resp_1/cancel")) == (403, "forbidden")
    assert code(guarded.ask("all", "/v1/responses", previous_response_id="resp_1")) == (403, "forbidden")
    assert guarded.get("boss", "/v1/responses/resp_1").status_code == 404


def test_prompts_are_salted_by_who_asks(guarded: Guarded) -> None:
    def salt(name: str, **body: Any) -> str:
        guarded.server.engine.prompts.clear()
        assert guarded.ask(name, **body).status_code == 200
        return str(guarded.server.engine.prompts[-1]["cache_salt"])

    salts = {name: salt(name) for name in ("all", "more", "free", "boss")}
    assert salts["all"] == salts["more"] == salt("all", task="plain") == salt("all", stream=True)
    assert len(set(salts.values())) == 3
    assert salt("free", cache_salt=salts["all"]) not in salts.values()


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_an_open_server_refuses_them_too_unless_the_operator_allows_them(
    unguarded: Guarded, path: str
) -> None:
    sent = {"chat_template_kwargs": {"a": 1}}
    refused = unguarded.ask(None, path, **sent)
    assert code(refused) == (403, "forbidden")
    assert "--allow-fields chat_template" in refused.json()["error"]["message"]
    assert code(unguarded.get(None, "/v1/responses/resp_1")) == (403, "forbidden")
    unguarded.server.service.access.open_fields = frozenset({"chat_template", "stored_responses"})
    assert unguarded.ask(None, path, **sent).status_code == 200
    assert code(unguarded.ask(None, path, priority=-1)) == (403, "forbidden")
    assert unguarded.get(None, "/v1/responses/resp_1").status_code == 404


def test_an_open_server_salts_nothing(unguarded: Guarded) -> None:
    unguarded.server.service.access.open_fields = frozenset({"cache_salt"})
    assert unguarded.ask(None).status_code == 200
    assert "cache_salt" not in unguarded.server.engine.prompts[-1]
    assert unguarded.ask(None, cache_salt="mine").status_code == 200
    assert unguarded.server.engine.prompts[-1]["cache_salt"] == "mine"


def test_embeddings_are_salted_and_counted(guarded: Guarded) -> None:
    book = guarded.server.service.access.book
    assert book is not None
    caller, seen = book.find("key-of-poor"), []

    class Engine:
        async def encode(self, prompt: Any, *args: Any, **options: Any) -> Any:
            seen.append((prompt, args, options))
            yield type("Output", (), {"prompt_token_ids": [1, 2, 3], "outputs": object()})()

    async def encode() -> None:
        engine: Any = Engine()
        watch_encode(engine)
        token = CURRENT_CALLER.set(caller)
        try:
            async for _ in engine.encode({"prompt_token_ids": [1, 2, 3]}, "params", request_id="r"):
                pass
        finally:
            CURRENT_CALLER.reset(token)

    asyncio.run(encode())
    assert seen[0][0]["cache_salt"] == caller.cache_salt
    assert seen[0][1:] == (("params",), {"request_id": "r"})
    assert book.account(caller).headers()["x-ratelimit-remaining-tokens"] == "7"
