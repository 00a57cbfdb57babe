"""Around everything: gives each request an id and a span, and writes its line into the log.

The line is logged by `vllm.passepartout.access`, below vLLM's logger, so that its handlers and its format
hold: with `--log-format json` the fields stand beside the message. It never has bodies, keys, client
addresses or raw paths; uvicorn's own access lines, which do, are switched off.
"""

import logging
import re
import time
import uuid
from http import HTTPMethod

from starlette._utils import get_route_path  # the router's own: any other reading could differ
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.policy import ROUTE_LEVELS
from server.log import logger
from server.metrics import UNKNOWN_LABEL
from server.observe.record import CURRENT_RECORD, Record
from server.service import Service

__all__ = ["REQUEST_ID_HEADER", "ObserveMiddleware", "route_of"]

REQUEST_ID_HEADER = "X-Request-Id"

_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
"""Of a client; anything else is replaced: an id is logged, and vLLM names its own requests by it."""
_PATTERNS = [(compile_path(route)[0], route) for route in ROUTE_LEVELS if "{" in route]
_METHODS = {*HTTPMethod, "WEBSOCKET"}
_SWITCHING_PROTOCOLS = 101
_CLOSED_UNOPENED = 403

_access = logging.getLogger(f"{logger.name}.access")


class ObserveMiddleware:
    """The outermost of all."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        record = Record(_request_id(scope), _method(scope), route_of(scope))
        MutableHeaders(scope=scope)[REQUEST_ID_HEADER] = record.request_id
        token = CURRENT_RECORD.set(record)
        try:
            with self._service.tracing.request(record, scope):
                await self._app(scope, receive, _watched(send, record))
        finally:
            CURRENT_RECORD.reset(token)
            if record.is_refused and record.error_code is not None:
                self._service.metrics.refused(record.error_code)
            if record.route not in self._service.quiet_routes and self._service.has_access_log:
                _write(record, time.perf_counter() - started)


def route_of(scope: Scope) -> str:
    """The route of a request as `server.access.policy` writes it: there are so many and no more."""
    path = get_route_path(scope)
    if path in ROUTE_LEVELS:
        return path
    return next((route for pattern, route in _PATTERNS if pattern.match(path)), UNKNOWN_LABEL)


def _method(scope: Scope) -> str:
    """HTTP's own methods and no more: they name spans."""
    method: str = scope.get("method", "WEBSOCKET")
    return method if method in _METHODS else "_OTHER"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


def _watched(send: Send, record: Record) -> Send:
    """Notes the status on its way out, and puts the request's id on the answer."""

    async def watch(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers[REQUEST_ID_HEADER] = record.request_id
            message = {**message, "headers": headers.raw}
        elif message["type"] == "websocket.accept":
            record.status = _SWITCHING_PROTOCOLS
        elif message["type"] == "websocket.close" and record.status is None:
            record.status = _CLOSED_UNOPENED
        await send(message)

    return watch


def _write(record: Record, seconds: float) -> None:
    fields = {name: value for name, value in vars(record).items() if value and name != "is_refused"}
    fields["seconds"] = round(seconds, 6)
    said = f"{record.method} {record.route} {record.status or '-'} in {seconds:.3f} s"
    told = ("task", "digest", "key", "error_code", "trace_id", "request_id")
    words = [f"{name}={fields[name]}" for name in told if name in fields]
    _access.info(" ".join([said, *words]), extra=fields)
