"""What vLLM's errors tell of the machine is taken out; what they tell of the request stays."""

import json

import pytest

from server.words import clean, clean_error
from tests.server.conftest import Site

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("cannot identify <_io.BytesIO object at 0x7f2f>", "cannot identify (an object)"),
        ("<Worker 3 at 0x7f00aa> died", "(an object) died"),
        ("pointer 0x7f00aabb", "pointer (an object)"),
        ("Cannot connect to host 10.0.0.7:8080", "Cannot connect to host (an address)"),
        ("no file '/srv/pictures/a.png'", "no file '(a path)'"),
        ("`--allowed-local-media-path /srv/x/`.", "`--allowed-local-media-path (a path)`."),
        ("file:///home/me/a.png", "(a path)"),
        ("~/models/x is missing", "(a path) is missing"),
        ("ask /v1/chat/completions", "ask /v1/chat/completions"),
        ("expected image/png or 4:1/2, version 0.32.0, colour 0xff", None),
        ("`max_tokens` must be at least 1, got -1 and/or 0.", None),
        ("see https://docs.vllm.ai/en/latest/x.html", None),
    ],
)
def test_what_is_taken_out(said: str, left: str | None) -> None:
    assert clean(said) == (said if left is None else left)


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"error": "no object"}', b'{"error": {"message": 3}}']
)
def test_a_body_that_is_no_error_passes(payload: bytes) -> None:
    assert clean_error(payload) is payload


def test_our_own_errors_pass() -> None:
    ours = json.dumps({"error": {"message": "at /srv/x/y", "code": "task_not_found"}}).encode()
    assert clean_error(ours) is ours


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_an_answer_says_no_path(site: Site, path: str) -> None:
    body = {"messages": [], "secrets": "<_io.BytesIO object at 0x7f2f> of /srv/pictures/a.png at 10.0.0.7"}
    response = site.client.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "(an object) of (a path) at (an address)"
    assert int(response.headers["Content-Length"]) == len(response.content)


def test_a_stream_says_no_path(site: Site) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "stream": True, "stream_breaks": "/srv/a/b"}
    text = site.client.post(CHAT, json=body).text
    assert "broke: (a path)" in text
    assert text.endswith("data: [DONE]\n\n")


def test_a_stream_of_anthropics_says_no_path(site: Site) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "stream": True, "stream_breaks": "/srv/a/b"}
    text = site.client.post("/v1/messages", json=body).text
    assert text.startswith('event: error\ndata: {"type": "error", "error": {')
    assert "broke: (a path)" in text
