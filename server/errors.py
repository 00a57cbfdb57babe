"""Errors as clients see them: the one place that knows a status for each kind of error.

The body is OpenAI's error object, `{"error": {"message", "type", "param", "code"}}`, with a string code (the
`code` of the class in `prompts.errors`). On Anthropic's routes it has their shape, with the same code inside.
"""

import math
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from prompts.errors import (
    CapacityError,
    ForbiddenError,
    InputError,
    InternalError,
    InvalidKeyError,
    ModelNotFoundError,
    NoFrameError,
    OverloadedError,
    PassepartoutError,
    PictureError,
    PreconditionError,
    RateLimitError,
    ReadOnlyStoreError,
    RouteNotFoundError,
    StaleBundleError,
    TaskConflictError,
    TaskNotFoundError,
    TooLargeError,
    TooSlowError,
    UnsupportedError,
    VersionNotFoundError,
    VersionRefusedError,
)
from server.observe.record import note

__all__ = ["ANTHROPIC_PREFIX", "error_response", "status_of"]

ANTHROPIC_PREFIX = "/v1/messages"
_BUSY_SECONDS = 1.0
"""When to ask again for what is not there now, and nobody knows when it will be."""

_STATUS: dict[type[PassepartoutError], HTTPStatus] = {
    TaskNotFoundError: HTTPStatus.NOT_FOUND,
    ModelNotFoundError: HTTPStatus.NOT_FOUND,
    NoFrameError: HTTPStatus.NOT_FOUND,
    VersionNotFoundError: HTTPStatus.NOT_FOUND,
    VersionRefusedError: HTTPStatus.CONFLICT,
    PreconditionError: HTTPStatus.PRECONDITION_FAILED,
    ReadOnlyStoreError: HTTPStatus.CONFLICT,
    InvalidKeyError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    RouteNotFoundError: HTTPStatus.NOT_FOUND,
    RateLimitError: HTTPStatus.TOO_MANY_REQUESTS,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooSlowError: HTTPStatus.REQUEST_TIMEOUT,
    InputError: HTTPStatus.BAD_REQUEST,
    OverloadedError: HTTPStatus.SERVICE_UNAVAILABLE,
    CapacityError: HTTPStatus.SERVICE_UNAVAILABLE,
    StaleBundleError: HTTPStatus.SERVICE_UNAVAILABLE,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
    PassepartoutError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_FIELD: dict[type[PassepartoutError], str] = {
    TaskNotFoundError: "task",
    TaskConflictError: "task",
    ModelNotFoundError: "model",
    UnsupportedError: "task",
    PictureError: "messages",
}


def status_of(error: PassepartoutError) -> HTTPStatus:
    """The HTTP status of an error: that of the nearest class above it that has one."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def error_response(error: PassepartoutError, *, path: str = "", param: str | None = None) -> JSONResponse:
    """Answer with `error`. `path`: the route asked; `param`: the field, where its class does not say it.

    Whoever may ask again has `Retry-After`, in whole seconds: as the error says, 1 with any other 503.
    """
    status = status_of(error)
    note(error_code=error.code)
    field = param or getattr(error, "field", None) or _FIELD.get(type(error))
    detail: dict[str, Any] = {
        "message": str(error),
        "type": _type(status),
        "param": field,
        "code": error.code,
    }
    content: dict[str, Any] = {"error": detail}
    if path.startswith(ANTHROPIC_PREFIX):
        content = {"type": "error", "error": detail}
    return JSONResponse(content, status_code=status, headers=_headers(error, status))


def _type(status: HTTPStatus) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def _headers(error: PassepartoutError, status: HTTPStatus) -> dict[str, str]:
    headers = {}
    if isinstance(error, InvalidKeyError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooSlowError):
        headers["Connection"] = "close"  # what still comes of it is read by nobody (RFC 9110, 15.5.9)
    unsaid = _BUSY_SECONDS if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    if (seconds := getattr(error, "retry_seconds", unsaid)) is not None:
        headers["Retry-After"] = str(max(math.ceil(seconds), 1))
    return headers
