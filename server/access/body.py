"""A request's body, read once, in its time, and counted while it is read."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from prompts.errors import InputError, OverloadedError, TooLargeError, TooSlowError
from prompts.faults import fault

__all__ = ["Bodies", "read_body", "replay"]

_MB = 1_000_000
_BODY_SECONDS, _MB_SECONDS = 30.0, 1.0
"""How long a body may take, and how much longer for each MB that has come."""
_RETRY_SECONDS = 1.0


class Bodies:
    """The bodies that one process holds at a time; `most_mb`: of all of them together, in MB."""

    def __init__(self, most_mb: int) -> None:
        self._most = most_mb * _MB
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """One request's: what it gives is told of each chunk's length, and raises OverloadedError where there
        is no room for it; all of it is free again afterwards."""
        own = 0

        def take(length: int) -> None:
            nonlocal own
            if self.held + length > self._most:
                expected, cure = f"at most {self._most // _MB} MB of requests at a time", "ask again later"
                found = fault("server", expected=expected, came="more", cure=cure)
                raise OverloadedError(found, _RETRY_SECONDS)
            own += length
            self.held += length

        try:
            yield take
        finally:
            self.held -= own


async def read_body(
    scope: Scope, receive: Receive, *, max_mb: int, take: Callable[[int], None]
) -> bytes | None:
    """The whole body, None where the client went away. `take` is told of each chunk's length.

    Raises:
        InputError: more than one length, or one that is no number.
        TooLargeError: more than `max_mb` MB, by what the header says or by what comes.
        TooSlowError: it did not come in 30 seconds and one more for each MB that has come.
        OverloadedError: `take` has no room for it.
    """
    most = max_mb * _MB
    if _declared(scope) > most:
        raise _too_large(max_mb)
    chunks: list[bytes] = []
    length = 0
    end = asyncio.get_running_loop().time() + _BODY_SECONDS
    try:
        async with asyncio.timeout_at(end) as limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk: bytes = message.get("body", b"")
                length += len(chunk)
                if length > most:
                    raise _too_large(max_mb)
                take(len(chunk))
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
                limit.reschedule(end + length / _MB * _MB_SECONDS)
    except TimeoutError as error:
        if limit.expired():
            raise _too_slow() from error
        raise


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


def _too_slow() -> TooSlowError:
    expected = f"all of it in {_BODY_SECONDS:.0f} seconds, and one more for each MB"
    return TooSlowError(fault("body", expected=expected, came="less", cure="send it again"))


def _too_large(max_mb: int) -> TooLargeError:
    cure = "send smaller pictures, or fewer of them"
    return TooLargeError(fault("body", expected=f"at most {max_mb} MB", came="more", cure=cure))
