"""A request's body, read once and counted while it is read."""

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from prompts.errors import InputError, TooLargeError
from prompts.faults import fault

__all__ = ["read_body", "replay"]

_MB = 1_000_000


async def read_body(scope: Scope, receive: Receive, *, max_mb: int) -> bytes | None:
    """The whole body, None where the client went away.

    Raises:
        InputError: more than one length, or one that is no number.
        TooLargeError: more than `max_mb` MB, by what the header says or by what comes.
    """
    most = max_mb * _MB
    if _declared(scope) > most:
        raise _too_large(max_mb)
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message.get("body", b"")
        length += len(chunk)
        if length > most:
            raise _too_large(max_mb)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def replay(raw: bytes, receive: Receive) -> Receive:
    """An ASGI `receive` that gives `raw` and then what still comes from the client."""
    waiting: list[bytes] = [raw]

    async def give() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return give


def _declared(scope: Scope) -> int:
    given = Headers(scope=scope).getlist("Content-Length")
    if not given:
        return 0
    if len(given) > 1 or not (given[0].isascii() and given[0].isdigit()):
        expected, cure = "one number", "let the HTTP library set it"
        raise InputError(fault("Content-Length", expected=expected, came="something else", cure=cure))
    return int(given[0][:20])


def _too_large(max_mb: int) -> TooLargeError:
    cure = "send smaller pictures, or fewer of them"
    return TooLargeError(fault("body", expected=f"at most {max_mb} MB", came="more", cure=cure))
