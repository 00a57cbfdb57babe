"""A fake vLLM with our middleware and routes, behind a real socket: what the HTTP tests here ask."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn

from prompts.bundle import save_bundle
from prompts.errors import CapacityError
from prompts.manifest import Manifest, TextSpec, Usage
from server.app import start
from server.config import ServeConfig
from tests.prompts.sample import BASE, edit_json, save_frame
from tests.server.fake import FakeLoader, FakeServer, make_server
from tests.server.observe.collector import Collector, collecting


def save_text(folder: Path, name: str, usage: Usage | None = None) -> None:
    """Save a bundle of text prompts."""
    manifest = Manifest(
        name=name,
        version="1",
        base_model=BASE,
        text=TextSpec(layers=2, length=3, hidden=4),
        usage=usage or Usage(),
    )
    seed = torch.Generator().manual_seed(sum(name.encode()))
    save_bundle(folder, manifest, {"text.prompts": torch.randn(2, 3, 4, generator=seed)})


@pytest.fixture(autouse=True)
def caught_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `caplog` see our log also where vLLM, imported by another module, took its loggers to itself."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good bundles, one that is broken, one that finds no room."""
    folder = tmp_path_factory.mktemp("store")
    save_frame(folder / "framed", "framed")
    save_text(folder / "plain", "plain")
    save_text(folder / "classes", "classes", Usage(choices=("cat", "dog")))
    save_text(folder / "spoken", "spoken", Usage(system="Be brief.", template="Name it: {text}!"))
    save_text(folder / "folder-of-another-name", "renamed")
    save_text(folder / "broken", "broken")
    edit_json(folder / "broken", lambda raw: raw.update(surprise=1))
    save_text(folder / "homeless", "homeless")
    return folder


@dataclass(frozen=True)
class Site:
    """A server that listens. `url`: where; `client`: asks it."""

    url: str
    client: httpx.Client
    server: FakeServer


@pytest.fixture(scope="module")
def site(store: Path) -> Iterator[Site]:
    """The fake server with the store loaded, listening."""
    server = make_server()
    loader = FakeLoader(refuses={"homeless": CapacityError("no room for 3 text rows")})
    asyncio.run(start(server.service, ServeConfig(tasks=store), base_names=("base",), loader=loader))
    with listening(server) as found:
        yield found


@contextmanager
def listening(server: FakeServer) -> Iterator[Site]:
    """The server behind a real socket, in a thread of its own, its engine in good health."""
    server.service.engine_is_healthy = _healthy
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(server.app, log_level="error", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=20) as client:
        yield Site(url, client, server)
    running.should_exit = True
    thread.join()
    listener.close()


async def _healthy() -> bool:
    return True
