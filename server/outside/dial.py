"""An HTTP transport that connects to the very addresses it has checked.

A name that is looked up once to be checked and again to be dialled may lead elsewhere the second time. Here
it is looked up once; the connection goes to that address, and TLS still proves the name.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address

import httpx

from server.outside.hosts import Address, is_public

__all__ = ["ForbiddenAddressError", "PinnedTransport", "Resolve", "resolve"]

Resolve = Callable[[str, int], Awaitable[list[Address]]]
"""Every address of a name, asked for with the port."""


class ForbiddenAddressError(Exception):
    """A name leads, with one of its addresses at least, to where nothing may be fetched."""


async def resolve(name: str, port: int) -> list[Address]:
    """Every address that the system knows for a name.

    Raises:
        OSError: it knows none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [ip_address(one[4][0]) for one in found]


class PinnedTransport(httpx.AsyncBaseTransport):
    """Sends each request to an address it has looked up and found allowed; keeps no connection.

    `resolve` and `is_allowed` are the system's and `is_public`, but in tests.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        resolve: Resolve = resolve,
        is_allowed: Callable[[Address], bool] = is_public,
    ) -> None:
        # A connection kept for another host of the same address would not have proved that host's name.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = inner or httpx.AsyncHTTPTransport(limits=limits, trust_env=False, retries=0)
        self._resolve = resolve
        self._is_allowed = is_allowed

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Look the host up, check every address, dial one after the other until one answers.

        Raises:
            ForbiddenAddressError: one of them is not allowed, or there are none.
            OSError, httpx.HTTPError: the host is unknown or does not answer.
        """
        url = request.url
        addresses = await self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        if not addresses or not all(self._is_allowed(one) for one in addresses):
            raise ForbiddenAddressError
        for address in addresses[:-1]:
            with suppress(httpx.ConnectError):
                return await self._inner.handle_async_request(_pinned(request, address))
        return await self._inner.handle_async_request(_pinned(request, addresses[-1]))

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()


def _pinned(request: httpx.Request, address: Address) -> httpx.Request:
    """The request to that address; its `Host` header and TLS name the host as before."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )
