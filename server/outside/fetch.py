"""Fetches a picture from an allowed host: in time, no larger than it may be, each redirect checked again.

What went wrong is told in few words: which hosts this machine can reach, and what they answer, is nobody's
business who sends requests.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import httpx

from prompts.errors import PictureError, TooLargeError
from prompts.faults import fault
from server.log import logger
from server.outside.dial import ForbiddenAddressError, PinnedTransport
from server.outside.hosts import Host, allows

__all__ = ["Budget", "Fetcher"]

_MB = 1_000_000
_REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 8192
_ELSEWHERE = (
    "this server fetches no pictures from there: send it as data:image/png;base64,…, "
    "or have the operator name the host with --picture-hosts"
)
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "passepartout"}


@dataclass
class Budget:
    """`left`: bytes that all pictures of one request may still take; `of`: what there was, in MB."""

    of: int
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.of * _MB

    def take(self, count: int) -> None:
        """Take so many.

        Raises:
            TooLargeError: there are no more.
        """
        self.left -= count
        if self.left < 0:
            expected, cure = f"at most {self.of} MB of pictures", "send fewer, or smaller ones"
            raise TooLargeError(fault("pictures", expected=expected, came="more", cure=cure))


@dataclass(frozen=True)
class Fetcher:
    """`hosts`: which may be asked; `max_mb`: of one picture; `seconds`: for one, redirects included.

    `transport`: makes what dials, one for each picture.
    """

    hosts: Sequence[Host] = ()
    max_mb: int = 16
    seconds: float = 10.0
    transport: Callable[[], httpx.AsyncBaseTransport] = field(default=PinnedTransport)

    async def fetch(self, url: str, *, place: str, budget: "Budget") -> bytes:
        """The bytes behind an address, taken off `budget`. `place`: the field it stands in, for messages.

        Raises:
            PictureError: a host that is not allowed, or one that did not give a picture in time.
            TooLargeError: more than it may be.
        """
        try:
            # Nothing of the environment has a word in where the connection goes: no proxy does the dialling.
            async with (
                asyncio.timeout(self.seconds),
                httpx.AsyncClient(
                    transport=self.transport(), trust_env=False, timeout=self.seconds
                ) as client,
            ):
                return await self._follow(client, self._allowed(url, place), place, budget)
        except TimeoutError as error:
            raise _failed(place, f"none within {self.seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, ForbiddenAddressError, OSError, UnicodeError) as error:
            logger.info("a picture was not fetched: %s", type(error).__name__)
            raise _failed(place, "one that could not be fetched") from error

    async def _follow(self, client: httpx.AsyncClient, url: httpx.URL, place: str, budget: "Budget") -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with client.stream("GET", url, headers=_HEADERS, follow_redirects=False) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._read(response, place, budget)
                following = url.join(response.headers.get("Location", ""))
            if url.scheme == "https" and following.scheme != "https":
                raise _failed(place, "one that leads from https to http")
            url = self._allowed(str(following), place)
        raise _failed(place, f"one with more than {_MAX_REDIRECTS} redirects")

    async def _read(self, response: httpx.Response, place: str, budget: "Budget") -> bytes:
        if response.status_code != HTTPStatus.OK:
            raise _failed(place, "one that could not be fetched")
        most, length = self.max_mb * _MB, 0
        chunks: list[bytes] = []
        async for chunk in response.aiter_raw():
            length += len(chunk)
            if length > most:
                expected, cure = f"at most {self.max_mb} MB behind it", "send a smaller picture"
                raise TooLargeError(fault(place, expected=expected, came="more", cure=cure))
            budget.take(len(chunk))
            chunks.append(chunk)
        return b"".join(chunks)

    def _allowed(self, text: str, place: str) -> httpx.URL:
        """The address, where it names an allowed host and nothing that is not needed."""
        url = httpx.URL(text) if len(text) <= _LONGEST_URL else httpx.URL()
        port = url.port or _PORTS.get(url.scheme, 0)
        if url.scheme not in _PORTS or url.userinfo or not allows(self.hosts, url.host.lower(), port):
            raise PictureError(
                fault(
                    place,
                    expected="an address of a host that this server fetches from" if self.hosts else "data:",
                    came="an address elsewhere",
                    cure=_ELSEWHERE,
                )
            )
        return url


def _failed(place: str, came: str) -> PictureError:
    cure = "correct it, or send the picture as data:image/png;base64,…"
    return PictureError(fault(place, expected="the address of a picture", came=came, cure=cure))
