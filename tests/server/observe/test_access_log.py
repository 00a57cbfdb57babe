"""One line for each request: what it says, what it never says, and the id that goes with it."""

import json
import re

import httpx
import pytest
from pythonjsonlogger.json import JsonFormatter

from server.access.policy import ROUTE_LEVELS
from server.observe.middleware import route_of
from tests.server.access.guarded import CHAT, QUESTION, Guarded
from tests.server.observe.conftest import Lines

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_line_says_what_was_served_to_whom(guarded: Guarded, lines: Lines) -> None:
    answer = guarded.ask("all", task="plain")
    assert answer.status_code == 200
    said = lines.fields()
    assert 0 < said.pop("seconds") < 20
    assert said == {
        "request_id": answer.headers["X-Request-Id"],
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "key": "all",
        "task": "plain",
        "digest": answer.headers["X-Task-Digest"],
        "model": "base",
        "prompt_tokens": 5,
        "cached_tokens": 4,
        "completion_tokens": 3,
    }
    assert len(lines.records) == 1
    message = lines.records[0].getMessage()
    assert re.match(
        r"POST /v1/chat/completions 200 in \d+\.\d{3} s task=plain digest=\w{64} key=all", message
    )


def test_a_method_of_a_clients_own_is_no_name_of_a_span(guarded: Guarded, lines: Lines) -> None:
    guarded.ask("all", method="SURPRISE")
    assert lines.fields()["method"] == "_OTHER"


def test_as_json_the_fields_stand_beside_the_message(guarded: Guarded, lines: Lines) -> None:
    guarded.ask("all", task="plain", stream=True)
    line = json.loads(JsonFormatter("%(levelname)s %(message)s").format(lines.records[0]))
    assert (line["levelname"], line["task"], line["status"]) == ("INFO", "plain", 200)
    assert line["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        (None, {}, 401, "invalid_api_key"),
        ("nobody", {}, 401, "invalid_api_key"),
        ("one", {"task": "classes"}, 403, "forbidden"),
        ("all", {"task": "nosuch"}, 404, "task_not_found"),
        ("all", {"task": "framed"}, 400, "picture_required"),
        ("all", {"secrets": "<_io.BytesIO object at 0x7f00>"}, 422, "http_422"),
        ("all", {"explode": 1}, 500, "internal_error"),
    ],
)
def test_an_error_is_named(
    guarded: Guarded, lines: Lines, key: str | None, body: dict[str, object], status: int, code: str
) -> None:
    assert guarded.ask(key, **body).status_code == status
    said = lines.fields()
    assert (said["status"], said["error_code"]) == (status, code)
    assert len(lines.records) == 1


def test_a_line_has_no_words_of_the_client_s(guarded: Guarded, lines: Lines) -> None:
    """Bodies, keys, addresses, paths and names nobody registered."""
    guarded.ask("all", task="invented-1")
    guarded.get("all", "/v1/tasks/invented-2")
    guarded.get("invented-3", "/v1/models")
    guarded.get("all", "/invented/4?of=5")
    guarded.ask("all", messages=[{"role": "user", "content": "invented-6"}])
    assert len(lines.records) == 5
    told = json.dumps([[lines.fields(index), one.getMessage()] for index, one in enumerate(lines.records)])
    assert re.search(r"invented|key-of|127\.0|of=5|testclient", told) is None
    assert [lines.fields(index)["route"] for index in range(4)] == [
        CHAT,
        "/v1/tasks/{name}",
        "/v1/models",
        "_unknown",
    ]


@pytest.mark.parametrize("given", ["abc-123", "a" * 128])
def test_a_client_s_id_is_kept(guarded: Guarded, lines: Lines, given: str) -> None:
    assert ask_with(guarded, {"X-Request-Id": given}).headers["X-Request-Id"] == given
    assert lines.fields()["request_id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", 'a"b', "a\tb", "ä"])
def test_any_other_is_replaced(guarded: Guarded, given: str) -> None:
    came = ask_with(guarded, {"X-Request-Id": given.encode()}).headers.get_list("X-Request-Id")
    assert len(came) == 1
    assert re.fullmatch("[0-9a-f]{32}", came[0])


def test_a_refusal_says_the_id_too(guarded: Guarded) -> None:
    assert guarded.ask(None).headers["X-Request-Id"]


def test_the_trace_of_the_client_is_named_also_where_nobody_collects(guarded: Guarded, lines: Lines) -> None:
    ask_with(guarded, {"traceparent": PARENT})
    assert lines.fields()["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    ask_with(guarded, {"traceparent": "00-nonsense-01"})
    assert "trace_id" not in lines.fields()


def test_lines_can_be_left_out(guarded: Guarded, lines: Lines) -> None:
    service = guarded.server.service
    service.quiet_routes = frozenset({"/ready"})
    guarded.get("all", "/ready")
    guarded.get("all", "/v1/tasks")
    assert [lines.fields(index)["route"] for index in range(len(lines.records))] == ["/v1/tasks"]
    service.has_access_log = False
    guarded.get("all", "/v1/tasks")
    assert len(lines.records) == 1


@pytest.mark.parametrize("route", ROUTE_LEVELS)
def test_every_route_is_its_own(route: str) -> None:
    path = re.sub(r"\{\w+(:path)?\}", "x", route)
    found = route_of({"type": "http", "path": path, "headers": []})
    assert found == route


def ask_with(guarded: Guarded, headers: dict[str, str] | dict[str, bytes]) -> httpx.Response:
    """A good question with these headers."""
    given = {"Authorization": "Bearer key-of-all", **headers}
    answer: httpx.Response = guarded.run(lambda client: client.post(CHAT, json=QUESTION, headers=given))
    assert answer.status_code == 200
    return answer
