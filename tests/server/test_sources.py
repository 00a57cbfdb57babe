"""A server whose store lies elsewhere: what comes there comes here; away, it serves on and says so."""

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import fsspec
import pytest

from prompts.errors import SourceError
from prompts.remote import Source
from prompts.remote_files import push_bundle
from prompts.remote_lock import Lock
from server.app import follow_source, start
from server.cli import _own_parser
from server.config import ServeConfig, is_option
from server.sources import FollowedSource, first_look
from tests.prompts.sample import save_frame
from tests.server.access.guarded import code
from tests.server.fake import FakeLoader, FakeServer, make_server
from tests.server.test_task_changes import Desk

SHOP = "memory://shop/tasks"


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


class Away:
    """A file system that is asked in vain."""

    def invalidate_cache(self) -> None:
        raise ConnectionError("no route")


async def ready(server: FakeServer) -> dict[str, Any]:
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://test") as client:
        found: dict[str, Any] = (await client.get("/ready")).json()
    return found


def test_what_comes_at_the_source_is_served_and_away_it_says_so(tmp_path: Path) -> None:
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    store = tmp_path / "cache"
    store.mkdir()
    first_look(SHOP, store, None)
    server = make_server()

    async def healthy() -> bool:
        return True

    async def story() -> None:
        service = server.service
        service.engine_is_healthy = healthy
        await start(service, ServeConfig(tasks=store), base_names=("base",), loader=FakeLoader())
        service.source = FollowedSource(Source(SHOP), store)
        following = asyncio.create_task(follow_source(service, service.source, seconds=0.01))
        two = save_frame(tmp_path / "two", "lines", scale=0.5)
        push_bundle(tmp_path / "two", SHOP)
        while service.tasks.find("lines").digest != two.digest:
            await asyncio.sleep(0.01)
        assert (await ready(server))["source"] == {"status": "read", "refused": {}, "not_named_by_lock": []}
        service.source.source = Source(SHOP, filesystem=Away())
        while not service.source.is_away:
            await asyncio.sleep(0.01)
        said = await ready(server)
        assert (said["status"], said["source"]["status"], said["tasks"]) == (
            "degraded",
            "away",
            {"lines": two.digest},
        )
        service.source.source = Source(SHOP)
        while service.source.is_away:
            await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_start_without_the_source_serves_what_is_here(tmp_path: Path, memory: Any) -> None:
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    store = tmp_path / "cache"
    store.mkdir()
    memory.mv("/shop", "/elsewhere", recursive=True)
    with pytest.raises(SourceError, match="shop"):
        first_look(SHOP, store, None)
    memory.mv("/elsewhere", "/shop", recursive=True)
    first_look(SHOP, store, None)
    memory.rm("/shop", recursive=True)
    first_look(SHOP, store, None)
    assert (store / "lines" / "bundle.json").is_file()


def test_a_lock_is_held_by_the_server_too(tmp_path: Path) -> None:
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    Lock(bundles={"lines": "0" * 64}).write(tmp_path / "lock")
    followed = FollowedSource(Source(SHOP), tmp_path / "cache", tmp_path / "lock")
    assert asyncio.run(followed.look()) is False
    assert "digest (lock)" in followed.refused["lines"][0]


def test_a_task_that_the_lock_does_not_name_is_no_fault(tmp_path: Path) -> None:
    one = save_frame(tmp_path / "one", "lines")
    for name in ("lines", "dots"):
        save_frame(tmp_path / name, name)
        push_bundle(tmp_path / name, SHOP)
    Lock(bundles={"lines": one.digest}).write(tmp_path / "lock")
    store = tmp_path / "cache"
    first_look(SHOP, store, tmp_path / "lock")
    server = make_server()

    async def healthy() -> bool:
        return True

    async def story() -> tuple[dict[str, Any], dict[str, Any]]:
        service = server.service
        service.engine_is_healthy = healthy
        await start(service, ServeConfig(tasks=store), base_names=("base",), loader=FakeLoader())
        service.source = FollowedSource(Source(SHOP), store, tmp_path / "lock")
        await service.source.look()
        unnamed = await ready(server)
        Lock(bundles={"lines": "0" * 64}).write(tmp_path / "lock")
        await service.source.look()
        return unnamed, await ready(server)

    unnamed, differing = asyncio.run(story())
    assert (unnamed["status"], list(unnamed["tasks"])) == ("ready", ["lines"])
    assert unnamed["source"] == {"status": "read", "refused": {}, "not_named_by_lock": ["dots"]}
    assert (differing["status"], list(differing["source"]["refused"])) == ("degraded", ["lines"])


def test_a_copy_is_changed_at_its_source_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.server.service.source = FollowedSource(Source(SHOP), desk.store)
    assert code(desk.put(digest=desk.two.digest)) == (409, "store_read_only")
    assert not (desk.store / "routing.json").exists()


def test_the_option_takes_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    args: Namespace = _own_parser().parse_args(["--model", "m", "--tasks", "hf://owner/repo@v1/tasks"])
    config = ServeConfig.from_namespace(args)
    assert config.source == "hf://owner/repo@v1/tasks"
    assert config.tasks.is_dir()
    assert config.tasks.parent == tmp_path / "passepartout" / "sources"
    args.tasks_cache = tmp_path / "mine"
    assert ServeConfig.from_namespace(args).tasks == tmp_path / "mine"
    assert [one.name for one in fields(ServeConfig) if not is_option(one)] == ["source"]
