"""A guarded server: the fake one with keys, limits by a clock of the test's own."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from prompts.store import StoreScan
from server.access.book import KeyBook
from server.access.gate import Gate
from tests.server.access.test_keys import SECRET
from tests.server.fake import FakeLoader, FakeServer, make_server

CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "what is it?"}]}


class Guarded:
    """The fake server with keys, asked in its own process; `now` is what its limits take for the time."""

    def __init__(self, scan: StoreScan, keys: Path | None) -> None:
        self.server: FakeServer = make_server()
        self.now = 0.0
        access = self.server.service.access
        access.clock = lambda: self.now
        access.gate = Gate(access.clock, running=8, queued=0)
        if keys is not None:
            access.book = KeyBook.read(keys, secret=SECRET, clock=access.clock)
        self.server.service.base_names = ("base",)
        asyncio.run(self.server.service.tasks.reconcile(scan, FakeLoader()))

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def go() -> Any:
            transport = httpx.ASGITransport(self.server.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await work(client)

        return asyncio.run(go())

    def ask(self, name: str | None, path: str = CHAT, method: str = "POST", **body: Any) -> httpx.Response:
        """Asks with the key of `name`."""
        headers = {} if name is None else {"Authorization": f"Bearer key-of-{name}"}
        sent = {"json": QUESTION | body} if method == "POST" else {}
        response: httpx.Response = self.run(
            lambda client: client.request(method, path, headers=headers, **sent)
        )
        return response

    def get(self, name: str | None, path: str) -> httpx.Response:
        return self.ask(name, path, "GET")


def code(response: httpx.Response) -> tuple[int, str | None]:
    """Status, and the error object's code."""
    error = response.json().get("error") if response.status_code >= 400 else None
    return response.status_code, error["code"] if error else None
