"""Asks of every request who sends it and whether that one may: around the task middleware and all routes.

Outside it stand CORS (browsers' preflights carry no key), vLLM's own key check, request ids and HTTP metrics,
which answer nothing of their own; inside it everything that does. What is refused has not been read.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompts.errors import (
    ForbiddenError,
    InvalidKeyError,
    PassepartoutError,
    RouteNotFoundError,
    UnsupportedError,
)
from prompts.faults import fault
from server.access.access import Access
from server.access.body import read_body, replay
from server.access.book import carried_key
from server.access.caller import CURRENT_CALLER, Caller, require_task
from server.access.fields import require_fields, require_stored_responses
from server.access.limits import Account
from server.access.policy import Level, canonical_path, find_level, needs_store
from server.answer import Answer
from server.errors import error_response
from server.observe.record import note
from server.prepare import parse_body
from server.resolve import TASK_HEADER
from server.surface import ROUTES

__all__ = ["AccessMiddleware"]

_POLICY_VIOLATION = 1008  # RFC 6455, the code of a WebSocket that is closed for what the client is
_HTTP_REFUSAL = "websocket.http.response"


class AccessMiddleware:
    """Goes around `TaskMiddleware`."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            path, level = _route(scope)
            caller = self._caller(scope, level)
        except PassepartoutError as error:
            await _refuse(error, scope, receive, send)
            return
        note(key=caller.name if caller is not None else None)
        token = CURRENT_CALLER.set(caller)
        try:
            await self._admit(path, level, caller, scope, receive, send)
        finally:
            CURRENT_CALLER.reset(token)

    def _caller(self, scope: Scope, level: Level) -> Caller | None:
        """Who asks; None where the server has no keys, or on a public route where nobody says.

        Raises:
            InvalidKeyError: no key, or one of nobody.
            ForbiddenError: the route is not for this one.
        """
        headers, book = Headers(scope=scope), self._access.book
        if book is None:
            self._require_open(headers, level)
            return None
        try:
            key = carried_key(headers)
            if key is None:
                expected, cure = "Bearer KEY", "send a key; the operator gives them out"
                raise InvalidKeyError(fault("Authorization", expected=expected, came="nothing", cure=cure))
            caller = book.find(key)
        except InvalidKeyError:
            if level is Level.PUBLIC:
                return None
            raise
        _require_level(caller, level)
        return caller

    def _require_open(self, headers: Headers, level: Level) -> None:
        if level is Level.ADMIN:
            came, cure = "a server without keys", "start it with --keys FILE, where a key has `admin: true`"
            raise ForbiddenError(fault("key", expected="an admin's", came=came, cure=cure))
        if level is Level.USER:
            self._access.open_keys.require(headers)

    async def _admit(
        self, path: str, level: Level, caller: Caller | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Count the request, read its body under the cap, and hand it on."""
        account = self._account(caller)
        out = _Out(send, account)
        is_work = level is Level.USER and scope.get("method", "POST") == "POST"
        if level is Level.USER and path not in ROUTES:
            send = Answer(scope, out.send, headers={}, explain=_no_better).send
        else:  # the task middleware watches them; probes and admins are told all
            send = out.send
        try:
            with self._counted(account) if is_work else nullcontext(), self._access.bodies.share() as take:
                if level is not Level.PUBLIC and scope["type"] == "http":
                    raw = await read_body(scope, receive, max_mb=self._access.max_body_mb, take=take)
                    if raw is None:
                        return
                    receive = replay(raw, receive)
                    _require_use(path, raw if is_work else None, self._access.open_fields)
                elif scope["type"] == "websocket":
                    require_task(None)
                    _require_no_task(scope)
                with self._access.gate.entered() if is_work else nullcontext():
                    await self._app(scope, receive, send)
        except PassepartoutError as error:
            if out.has_started:
                raise
            await _refuse(error, scope, receive, out.send)

    @contextmanager
    def _counted(self, account: Account | None) -> Iterator[None]:
        """A full queue is refused before it is counted against the key."""
        self._access.gate.require_room()
        with account.admitted() if account is not None else nullcontext():
            yield

    def _account(self, caller: Caller | None) -> Account | None:
        book = self._access.book
        return book.account(caller) if book is not None and caller is not None else None


class _Out:
    """ASGI's `send` with the key's limits in the headers."""

    def __init__(self, send: Send, account: Account | None) -> None:
        self._send = send
        self._account = account
        self.has_started = False

    async def send(self, message: Message) -> None:
        """Stand in for ASGI's `send`."""
        self.has_started = True
        if message["type"] == "http.response.start" and self._account is not None:
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers.update(self._account.headers())
            message = {**message, "headers": headers.raw}
        await self._send(message)


def _route(scope: Scope) -> tuple[str, Level]:
    """The path and who it is for.

    Raises:
        RouteNotFoundError: nobody.
    """
    path = canonical_path(scope)
    level = find_level(path, scope.get("method")) if path is not None else None
    if path is None or level is None:
        expected, came = "a route of this server", "another path"
        cure = "write it as the documentation does, without a slash at the end or percent signs"
        raise RouteNotFoundError(fault("path", expected=expected, came=came, cure=cure))
    return path, level


def _require_use(path: str, raw: bytes | None, open_fields: frozenset[str]) -> None:
    """What one must be allowed where the task middleware passes over; `raw`: the body of work to do.

    Raises:
        ForbiddenError: the current caller may not.
    """
    if needs_store(path):
        require_stored_responses(open_fields=open_fields)
    elif raw is not None and path not in ROUTES:
        require_task(None)
        require_fields(parse_body(raw), open_fields=open_fields)


def _require_no_task(scope: Scope) -> None:
    """No task enters what a WebSocket carries: the base model would answer in its place.

    Raises:
        UnsupportedError: one is asked for.
    """
    if Headers(scope=scope).getlist(TASK_HEADER):
        cure = "ask it at /v1/chat/completions, or leave the task out"
        raise UnsupportedError(fault(TASK_HEADER, expected="no task", came="one on a WebSocket", cure=cure))


async def _no_better() -> None:
    """vLLM's own words are all there is to say."""


def _require_level(caller: Caller, level: Level) -> None:
    if caller.admin or level is Level.PUBLIC:
        return
    if level is Level.USER and not caller.is_scraper:
        return
    if level is Level.METRICS and caller.metrics:
        return
    if level is Level.USER:
        cure = "ask with another key, or have the operator add `tasks` or `base: true` to this one"
        expected, came = "one with `tasks` or `base`", "one for the metrics alone"
        raise ForbiddenError(fault("key", expected=expected, came=came, cure=cure))
    word = "metrics" if level is Level.METRICS else "admin"
    cure = f"ask with a key that has `{word}: true`"
    raise ForbiddenError(fault("key", expected=f"one with `{word}`", came="one without", cure=cure))


async def _refuse(error: PassepartoutError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the error, or close a WebSocket before it opens."""
    note(error_code=error.code, is_refused=True)
    response: Response = error_response(error, path=scope["path"])
    if scope["type"] == "websocket" and _HTTP_REFUSAL not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.code})
        return
    await response(scope, receive, send)
