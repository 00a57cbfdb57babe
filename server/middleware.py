"""The task around every request, as plain ASGI: nothing of vLLM is patched, it sees an ordinary request.

A POST on a route of `server.surface` is read, its task resolved once to a handle that is held on the device,
and the handle put where the engine side finds it (`server.engine.handles.CURRENT_TASK`) for as long as the
request lasts. The answer carries `X-Task` and `X-Task-Digest` whether it is whole, streamed or an error.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from http import HTTPStatus

from starlette._utils import get_route_path  # the router's own: any other reading could miss a task
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from prompts.errors import InternalError, PassepartoutError, StaleBundleError, TaskNotFoundError
from server.access.fields import require_fields
from server.answer import CLIENT_CLOSED, Answer
from server.engine.handles import TaskHandle, using_task
from server.errors import error_response
from server.log import logger
from server.metrics import UNKNOWN_LABEL
from server.observe.record import note
from server.outside.inline import fetch_pictures
from server.pictures import Picture, find_broken, find_fetch_fault
from server.prepare import Asked, parse_body, prepare_body, resolve_task
from server.resolve import STICKY_HEADER, TASK_HEADER, split_alias, sticky_of
from server.scope import CURRENT_SCOPE, RequestScope
from server.served import ServedTask
from server.service import Service
from server.surface import ROUTES, Route, find_route

__all__ = ["DIGEST_HEADER", "TaskMiddleware"]

DIGEST_HEADER = "X-Task-Digest"
_LOOKS, _LOOK_SECONDS = 4, 5.0
"""How often, and how long, a request waits for the store to say what its task's name means now."""


class TaskMiddleware:
    """Stands directly around the routes, inside `server.access.middleware`."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path = get_route_path(scope)
        task_headers = Headers(scope=scope).getlist(TASK_HEADER)
        if path not in ROUTES and not task_headers:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        raw = await _read_body(receive)
        if raw is not None:
            body = parse_body(raw)
            sticky = sticky_of(body, Headers(scope=scope).getlist(STICKY_HEADER))
            asked = Asked(path, raw, body, task_headers, sticky)
            await _Exchange(self._app, self._service, asked, started).run(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, service: Service, asked: Asked, started: float) -> None:
        self._app = app
        self._service = service
        self._asked = asked
        self._started = started
        self._route: Route | None = find_route(asked.path, asked.body)
        self._task: ServedTask | None = None
        self._handle: TaskHandle | None = None
        self._label: str | None = UNKNOWN_LABEL
        self._pictures: list[Picture] = []

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as holds:
            await self._run(scope, receive, send, holds)

    async def _run(self, scope: Scope, receive: Receive, send: Send, holds: AsyncExitStack) -> None:
        inner, came = self._app, self._asked.raw
        raw = came
        try:
            async with _while_there(receive):
                raw = await self._prepare(holds)
        except PassepartoutError as error:
            inner = error_response(error, path=self._asked.path)
        except ClientDisconnect:
            self._count_gone()
            return
        if raw is not came:
            MutableHeaders(scope=scope)["Content-Length"] = str(len(raw))
        answer = Answer(scope, send, headers=self._headers(), explain=self._explain)
        await self._answer(inner, scope, answer.receive(raw, receive), answer)

    async def _prepare(self, holds: AsyncExitStack) -> bytes:
        """Finds the task and has it on the device; returns the body for vLLM.

        A bundle that was exchanged while its task was cold cannot be read any more: then the next look at the
        store says what the name means now.
        """
        require_fields(self._asked.body, open_fields=self._service.access.open_fields)
        self._resolve()  # before anything is fetched for it
        self._asked = await fetch_pictures(self._asked, self._route, self._service)
        stale: StaleBundleError | None = None
        for _ in range(_LOOKS):
            self._resolve()
            raw, self._pictures = await prepare_body(self._asked, self._route, self._task, self._service)
            if self._task is None:
                return raw
            try:
                self._handle = await holds.enter_async_context(self._task.hold())
                return raw
            except TaskNotFoundError:  # exchanged and drained since its name was looked up
                continue
            except StaleBundleError as error:
                stale = error
            with suppress(TimeoutError):
                await asyncio.wait_for(self._service.tasks.next_look(), _LOOK_SECONDS)
        raise stale or InternalError("the task's bundle changes all the time")

    def _resolve(self) -> None:
        self._task = resolve_task(self._asked, self._route, self._service)
        self._label = self._task.name if self._task is not None else None
        note(model=next(iter(self._service.base_names), None), task=self._label)
        if self._task is not None:
            note(digest=self._task.digest)

    async def _answer(self, inner: ASGIApp, scope: Scope, receive: Receive, answer: Answer) -> None:
        label, digest = self._label, self._digest
        is_counted = self._route is not None and self._route.generates
        if is_counted:
            self._service.metrics.request_started(label, digest)
        token = CURRENT_SCOPE.set(self._scope(label))
        try:
            with using_task(self._handle):
                await inner(scope, receive, answer.send)
        except (asyncio.CancelledError, ClientDisconnect):
            answer.error_code = CLIENT_CLOSED
            raise
        except Exception as error:
            answer.error_code = f"http_{HTTPStatus.INTERNAL_SERVER_ERROR.value}"
            if answer.has_started:
                raise
            await self._answer_failure(error, answer)
        finally:
            CURRENT_SCOPE.reset(token)
            if answer.error_code is not None:
                note(error_code=answer.error_code)
            if is_counted:
                seconds = time.perf_counter() - self._started
                metrics, code = self._service.metrics, answer.error_code
                metrics.request_ended(label, digest, seconds=seconds, error_code=code)

    def _count_gone(self) -> None:
        """The client went away before vLLM was asked."""
        note(error_code=CLIENT_CLOSED)
        if self._route is not None and self._route.generates:
            seconds = time.perf_counter() - self._started
            metrics, asked = self._service.metrics, (self._label, self._digest)
            metrics.request_started(*asked)
            metrics.request_ended(*asked, seconds=seconds, error_code=CLIENT_CLOSED)

    @property
    def _digest(self) -> str | None:
        return self._task.digest if self._task is not None else None

    def _headers(self) -> dict[str, str]:
        if self._task is None:
            return {}
        return {TASK_HEADER: self._task.name, DIGEST_HEADER: self._task.digest}

    def _scope(self, label: str | None) -> RequestScope:
        model = self._asked.body.get("model")
        alias = split_alias(model, self._service.base_names)
        return RequestScope(
            started=self._started,
            task=label,
            alias=str(model) if alias is not None else None,
            streamed=self._asked.is_streamed,
            hold=partial(self._task.hold, is_held=True) if self._task is not None else nullcontext,
        )

    async def _answer_failure(self, error: Exception, answer: Answer) -> None:
        """Something unforeseen was raised: its words are for the log (they name hosts, paths and objects)."""
        explained = await self._explain()
        if explained is None:
            fault: PassepartoutError | None = find_fetch_fault(self._pictures, error)
            if fault is None:
                logger.exception("%s failed", self._asked.path, exc_info=error)
                fault = InternalError("the server failed to answer; its log says how")
            explained = fault.code, error_response(fault, path=self._asked.path)
        await answer.fail(*explained)

    async def _explain(self) -> tuple[str, Response] | None:
        """Name the broken picture where there is one: vLLM's own words name no field."""
        if not any(picture.is_inline for picture in self._pictures):
            return None
        max_pixels = self._service.max_picture_pixels
        broken = await asyncio.to_thread(find_broken, self._pictures, max_pixels=max_pixels)
        if broken is None:
            return None
        return broken.code, error_response(broken, path=self._asked.path)


@asynccontextmanager
async def _while_there(receive: Receive) -> AsyncIterator[None]:
    """Cancels what is inside when the client goes away; its body has been read.

    Raises:
        ClientDisconnect: it did.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        limit.reschedule(asyncio.get_running_loop().time())

    limit = asyncio.timeout(None)
    try:
        async with limit:
            watching = asyncio.create_task(watch())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
    except TimeoutError as error:
        if limit.expired():
            raise ClientDisconnect from error
        raise


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, None where the client went away."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)
