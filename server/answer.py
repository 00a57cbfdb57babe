"""Watches one answer on its way out: adds headers, notes status and errors, names broken pictures, and takes
out of vLLM's errors what they tell of this machine."""

import json
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.words import clean_error

__all__ = ["CLIENT_CLOSED", "Answer"]

CLIENT_CLOSED = "client_closed"

_STREAM_ERROR = re.compile(rb'(?:event: error\n)?data: (?=\{(?:"type": ?"error", ?)?"error")')
"""Before an error in mid-stream, OpenAI's and Anthropic's."""

Explain = Callable[[], Awaitable[tuple[str, Response] | None]]


class Answer:
    """The `send` and `receive` of one request, wrapped.

    `headers` go onto the answer, good or bad. Answers with a status of 400 or more (never streamed by vLLM)
    are held until they are whole; `explain` may then offer a better one, as (code, response).
    """

    def __init__(self, scope: Scope, send: Send, *, headers: dict[str, str], explain: Explain) -> None:
        self._scope = scope
        self._send = send
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._explain = explain
        self._held: Message | None = None
        self._held_body = b""
        self._is_finished = False
        self.has_started = False
        self.error_code: str | None = None

    async def send(self, message: Message) -> None:
        """Stand in for ASGI's `send`."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body" and self._held is not None:
            self._held_body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_held()
        else:
            self._note(message)
            await self._send(_without_secrets(message))

    def receive(self, raw: bytes, receive: Receive) -> Receive:
        """An ASGI `receive` that gives `raw` first and then waits on the client for a disconnect."""
        is_given = False

        async def replay() -> Message:
            nonlocal is_given
            if not is_given:
                is_given = True
                return {"type": "http.request", "body": raw, "more_body": False}
            message = await receive()
            if message["type"] == "http.disconnect" and not self._is_finished:
                self.error_code = CLIENT_CLOSED
            return message

        return replay

    async def _start(self, message: Message) -> None:
        message = {**message, "headers": [*message.get("headers", []), *self._headers]}
        if message["status"] >= HTTPStatus.BAD_REQUEST:
            self._held = message
        else:
            self.has_started = True
            await self._send(message)

    def _note(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            return
        body = message.get("body", b"")
        if (found := _STREAM_ERROR.match(body)) is not None:
            line = body[found.end() :].partition(b"\n")[0]
            self.error_code = _code(line, HTTPStatus.INTERNAL_SERVER_ERROR)
        if not message.get("more_body", False):
            self._is_finished = True

    async def _send_held(self) -> None:
        held, self._held = self._held, None
        assert held is not None
        self._is_finished = True
        self.error_code = self.error_code or _code(self._held_body, held["status"])
        better = await self._explain()
        self.has_started = True
        if better is None:
            body = clean_error(self._held_body)
            MutableHeaders(raw=held["headers"])["Content-Length"] = str(len(body))
            await self._send(held)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            return
        self.error_code, response = better
        await self._replace(response)

    async def fail(self, code: str, response: Response) -> None:
        """Answer with `response`: vLLM raised, and nothing is on its way yet."""
        self._is_finished = self.has_started = True
        self.error_code = code
        await self._replace(response)

    async def _replace(self, response: Response) -> None:
        for name, value in self._headers:
            response.raw_headers.append((name, value))
        await response(self._scope, _never, self._send)


def _without_secrets(message: Message) -> Message:
    """A stream's error is an event of its own; anything else passes as it is."""
    body: bytes = message.get("body", b"")
    found = _STREAM_ERROR.match(body)
    if found is None:
        return message
    line, end, rest = body[found.end() :].partition(b"\n")
    return {**message, "body": found[0] + clean_error(line) + end + rest}


async def _never() -> Message:
    raise AssertionError("a whole response reads nothing")


def _code(payload: bytes, status: int) -> str:
    """The string code of an error body of ours, `http_<status>` for any other."""
    try:
        error: Any = json.loads(payload)["error"]
    except (ValueError, KeyError, TypeError):
        return f"http_{status}"
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str):
        return code
    return f"http_{code}" if isinstance(code, int) else f"http_{status}"
