"""Errors as clients see them: the one place that knows a status for each kind of error.

The body is OpenAI's error object, `{"error": {"message", "type", "param", "code"}}`, with a string code (the
`code` of the class in `prompts.errors`). On Anthropic's routes it has their shape, with the same code inside.
"""

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from prompts.errors import (
    CapacityError,
    InputError,
    InternalError,
    NoFrameError,
    PassepartoutError,
    PictureError,
    PictureRequiredError,
    StaleBundleError,
    TaskConflictError,
    TaskNotFoundError,
    UnsupportedError,
)

__all__ = ["ANTHROPIC_PREFIX", "error_response", "status_of"]

ANTHROPIC_PREFIX = "/v1/messages"

_STATUS: dict[type[PassepartoutError], HTTPStatus] = {
    TaskNotFoundError: HTTPStatus.NOT_FOUND,
    NoFrameError: HTTPStatus.NOT_FOUND,
    InputError: HTTPStatus.BAD_REQUEST,
    CapacityError: HTTPStatus.SERVICE_UNAVAILABLE,
    StaleBundleError: HTTPStatus.SERVICE_UNAVAILABLE,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
    PassepartoutError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_FIELD: dict[type[PassepartoutError], str] = {
    TaskNotFoundError: "task",
    TaskConflictError: "task",
    UnsupportedError: "task",
    PictureRequiredError: "messages",
    PictureError: "messages",
}


def status_of(error: PassepartoutError) -> HTTPStatus:
    """The HTTP status of an error: that of the nearest class above it that has one."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def error_response(error: PassepartoutError, *, path: str = "", param: str | None = None) -> JSONResponse:
    """Answer with `error`. `path`: the route asked; `param`: the field, where its class does not say it."""
    status = status_of(error)
    field = param or _FIELD.get(type(error))
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    detail: dict[str, Any] = {"message": str(error), "type": kind, "param": field, "code": error.code}
    content: dict[str, Any] = {"error": detail}
    if path.startswith(ANTHROPIC_PREFIX):
        content = {"type": "error", "error": detail}
    return JSONResponse(content, status_code=status)
