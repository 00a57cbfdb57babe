"""What is known of the request being answered, for code that vLLM calls without handing it the request."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["CURRENT_SCOPE", "RequestScope"]


@dataclass(frozen=True, kw_only=True)
class RequestScope:
    """One request on a route that takes tasks.

    `started`: `time.perf_counter()` at its arrival; `task`: the name for metrics, None for the base model;
    `alias`: the `base:task` that the client put into `model`, to be echoed; `streamed`: whether it asked so.
    `hold`: keeps the task on the device, for engine requests that may outlast the HTTP request.
    """

    started: float
    task: str | None
    alias: str | None
    streamed: bool
    hold: Callable[[], AbstractAsyncContextManager[object]] = nullcontext


CURRENT_SCOPE: ContextVar[RequestScope | None] = ContextVar("passepartout_scope", default=None)
"""Set by `server.middleware`; tasks that vLLM starts for the request inherit it."""
