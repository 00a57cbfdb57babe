"""A task that is not on the device, seen by those who ask for it over HTTP."""

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

import server.middleware
from prompts.errors import EngineError
from prompts.store import StoreReader
from server.app import start
from server.config import ServeConfig
from server.served import ServedTask
from tests.prompts.sample import save_frame
from tests.server.conftest import save_text
from tests.server.fake import FakeLoader, FakeServer, make_server

CHAT = "/v1/chat/completions"


class Cold:
    """A server in this process, its store, and a loader with no room to load ahead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: FakeServer = make_server()
        self.loader = FakeLoader(rooms=0)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.server.app), base_url="http://test", timeout=20
        )

    async def start(self) -> None:
        config = ServeConfig(tasks=self.folder)
        await start(self.server.service, config, base_names=("base",), loader=self.loader)

    async def look(self) -> None:
        scan = StoreReader(self.folder).scan()
        await self.server.service.tasks.reconcile(scan, self.loader)

    async def ask(self, task: str) -> httpx.Response:
        body = {"model": "base", "task": task, "messages": [{"role": "user", "content": "hello"}]}
        return await self.client.post(CHAT, json=body)


@pytest.fixture
def cold(tmp_path: Path) -> Cold:
    save_text(tmp_path / "one", "one")
    return Cold(tmp_path)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_request_waits_for_its_cold_task(cold: Cold) -> None:
    async def story() -> None:
        await cold.start()
        assert cold.loader.loaded == []
        shown = (await cold.client.get("/v1/tasks/one")).json()
        assert shown["on_device"] is False
        cold.loader.is_busy = True
        asking = asyncio.create_task(cold.ask("one"))
        await asyncio.sleep(0.1)
        assert not asking.done()
        assert (await cold.client.get("/v1/tasks")).status_code == 200
        cold.loader.is_busy = False
        response = await asking
        assert response.json()["choices"][0]["message"]["content"] == "one says anything"
        assert cold.loader.loaded == ["one"]

    run(story)


def test_who_goes_away_waits_for_no_cold_task(cold: Cold) -> None:
    body = json.dumps({"task": "one", "messages": []}).encode()
    scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "headers": []}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def story() -> None:
        await cold.start()
        cold.loader.is_busy = True
        left = asyncio.Event()
        messages = iter([{"type": "http.request", "body": body}, {"type": "http.request"}])

        async def receive() -> Any:
            if (message := next(messages, None)) is None:
                await left.wait()
                return {"type": "http.disconnect"}
            return message

        asking = asyncio.create_task(cold.server.app(scope, receive, send))
        task = cold.server.service.tasks.find("one")
        while not task.leases:
            await asyncio.sleep(0.01)
        assert not asking.done()
        left.set()
        await asking
        assert (sent, task.leases, cold.loader.coming, cold.server.seen) == ([], 0, [], [])
        assert cold.server.service.access.gate.under_way == 0
        labels = {"task": "one", "version": task.digest[:12], "code": "client_closed"}
        name = "passepartout_task_errors_total"
        assert cold.server.registry.get_sample_value(name, labels) == 1

    run(story)


def test_a_bad_request_loads_nothing(cold: Cold) -> None:
    async def story() -> None:
        save_frame(cold.folder / "framed", "framed")
        await cold.start()
        response = await cold.ask("framed")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "picture_required")
        assert cold.loader.loaded == []

    run(story)


def test_a_bundle_exchanged_while_cold_is_answered_by_the_new_one(cold: Cold) -> None:
    async def story() -> None:
        await cold.start()
        old = cold.server.service.tasks.find("one").digest
        cold.loader.stale.add(old)
        asking = asyncio.create_task(cold.ask("one"))
        await asyncio.sleep(0.1)
        assert not asking.done(), "it waits for the next look at the store"
        save_frame(cold.folder / "one", "one")
        await cold.look()
        response = await asking
        assert response.json()["error"]["code"] == "picture_required", "asked as the new one wants to be"
        shutil.rmtree(cold.folder / "one")
        save_text(cold.folder / "one", "one")
        cold.loader.stale.clear()
        await cold.look()
        response = await cold.ask("one")
        assert response.headers["X-Task-Digest"] == old

    run(story)


def test_a_task_drained_while_the_request_was_prepared_is_looked_up_again(cold: Cold) -> None:
    async def story() -> None:
        await cold.start()
        registry = cold.server.service.tasks
        registry.tasks["one"].is_drained = True
        find, found = registry.find, []

        def find_new_one_second(name: str, sticky: str) -> ServedTask:
            task = find(name, sticky)
            if found:
                task.is_drained = False
            found.append(task)
            return task

        registry.find = find_new_one_second  # type: ignore[method-assign]
        assert (await cold.ask("one")).status_code == 200
        assert len(found) == 2

    run(story)


def test_a_cold_task_whose_bundle_is_gone_for_good_is_an_error_without_paths(
    cold: Cold, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.middleware, "_LOOK_SECONDS", 0.01)

    async def story() -> None:
        await cold.start()
        cold.loader.stale.add(cold.server.service.tasks.find("one").digest)
        response = await cold.ask("one")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (503, "bundle_stale")
        assert error["message"] == "task one: its bundle is being exchanged, ask again"
        cold.loader.stale.clear()
        cold.loader.refuses["one"] = EngineError("/srv/tasks/one: rank 3 is out of memory")
        response = await cold.ask("one")
        assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
        assert "/srv" not in response.text
        assert "rank 3 is out of memory" in caplog.text

    run(story)
