"""What `training.served` asks of a vLLM, without a model: a chat template, one token a character, figures."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from PIL import Image

Body = dict[str, Any]

DIGEST_HEADER = "X-Task-Digest"
ROW = 1
"""Id of a learned row and of a picture row; any other token's id is its character's code."""
DIGEST = "d" * 64


def log_prob(place: int, token: int) -> float:
    """What the fake says of a prompt token, by its place and id."""
    return -(token % 7) - place / 1000


@dataclass
class FakeVllm:
    """Answers like vLLM 0.32 with Passepartout's tasks; `transport` puts it in place of the network.

    Attributes:
        begin, answer: what the template puts before an answer, when it is to come and when it is there.
        tasks: as `GET /v1/tasks` lists them; None: a vLLM without tasks.
        tells: whether the prompt comes back where it is asked for.
        joins: whether a candidate's first character becomes one token with the one before.
        before: called with each chat; may wait, or answer in the fake's stead.
        name: what its model is called.
        full: paths that are turned away with 503, one request for each time a path stands there.
    """

    begin: str = "assistant\n"
    answer: str = "assistant\n"
    tasks: list[Body] | None = field(default_factory=list)
    tells: bool = True
    joins: bool = False
    digest: str = DIGEST
    before: Callable[[Body], httpx.Response | None] = lambda body: None
    name: str = "base"
    full: list[str] = field(default_factory=list)
    chats: list[Body] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        if request.url.path in self.full:
            self.full.remove(request.url.path)
            return httpx.Response(503, json={"error": {"message": "no room", "code": "capacity"}})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": self.name}]})
        if request.url.path == "/v1/tasks" and self.tasks is not None:
            return httpx.Response(200, json={"data": self.tasks})
        if request.url.path != "/v1/chat/completions":
            return httpx.Response(404, json={"detail": "Not Found"})
        body = json.loads(request.content)
        with self._lock:
            self.chats.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self.before(body) or self._chat(body)
        finally:
            with self._lock:
                self._at_once -= 1

    def _chat(self, body: Body) -> httpx.Response:
        text = "user\n" + text_of(body) + "\n"
        begun = body["messages"][-1]["role"] == "assistant"
        text += self.answer + body["messages"][-1]["content"] if begun else self.begin
        ids = [ROW] * (3 if "task" in body else 0) + [ord(character) for character in text]
        if begun and self.joins:
            at = len(ids) - len(body["messages"][-1]["content"])
            ids[at - 1 : at + 1] = [5000]
        answer: Body = {"choices": [{"message": {"content": " " + said_to(body) + "\n"}}]}
        if self.tells and body.get("return_token_ids") and body.get("return_prompt_text"):
            answer |= {"prompt_token_ids": ids, "prompt_text": text}
        if body.get("prompt_logprobs") is not None:
            steps = [{str(token): {"logprob": log_prob(place, token)}} for place, token in enumerate(ids)]
            answer["prompt_logprobs"] = [None, *steps[1:]]
        return httpx.Response(
            200, json=answer, headers={DIGEST_HEADER: self.digest} if "task" in body else {}
        )


@contextmanager
def listening(fake: FakeVllm) -> Iterator[str]:
    """Lets the fake listen on a port of this machine while open; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = httpx.Request(self.command, f"http://fake{self.path}", content=sent)
            answer = fake.transport.handle_request(request)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            if DIGEST_HEADER in answer.headers:
                self.send_header(DIGEST_HEADER, answer.headers[DIGEST_HEADER])
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test's output is its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def task(name: str, **more: Any) -> Body:
    """A line of `GET /v1/tasks`."""
    return {"id": name, "digest": DIGEST, "usage": {"choices": None}, "lm_head": False} | more


def text_of(body: Body) -> str:
    """The question of a chat."""
    return str(body["messages"][0]["content"][-1]["text"])


def said_to(body: Body) -> str:
    """The answer to a chat: its question backwards."""
    return text_of(body)[::-1]


def picture_of(body: Body) -> Image.Image:
    """The picture of a chat."""
    head, _, data = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))
