"""The registry follows the store: load, swap, drain; requests keep what they hold."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import server.tasks
from prompts.errors import CapacityError, EngineError, TaskNotFoundError
from prompts.store import StoreReader
from server.app import follow_store
from server.service import Service
from server.tasks import TaskRegistry
from tests.prompts.sample import edit_json, save_frame
from tests.server.fake import FakeLoader


class Site:
    """A registry, the store it follows and a loader that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loader = FakeLoader()
        self.tasks = TaskRegistry(drain_grace_seconds=0.0)
        self._reader = StoreReader(folder)

    async def look(self) -> None:
        await self.tasks.reconcile(self._reader.scan(), self.loader)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    save_frame(tmp_path / "one", "one")
    return Site(tmp_path)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_bundle_that_appears_is_served_and_one_that_goes_is_drained(site: Site) -> None:
    async def story() -> None:
        await site.look()
        first = site.tasks.find("one").digest
        save_frame(site.folder / "two", "two", scale=0.5)
        shutil.rmtree(site.folder / "one")
        await site.look()
        await site.look()
        assert list(site.tasks.tasks) == ["two"]
        with pytest.raises(TaskNotFoundError):
            site.tasks.find("one")
        await site.tasks.drained()
        assert site.loader.discarded == [first]

    run(story)


def test_a_folder_that_is_just_being_replaced_is_not_gone(site: Site) -> None:
    async def story() -> None:
        await site.look()
        for _ in range(2):
            (site.folder / "one").rename(site.folder / ".aside")
            await site.look()
            assert "one" in site.tasks.tasks
            (site.folder / ".aside").rename(site.folder / "one")
            await site.look()
        assert site.loader.discarded == []

    run(story)


def test_a_swap_waits_for_the_requests_that_hold_the_old_digest(site: Site) -> None:
    async def story() -> None:
        await site.look()
        old = site.tasks.find("one")
        async with old.hold() as first, old.hold() as second:
            assert first.digest == second.digest == old.digest
            save_frame(site.folder / "one", "one", scale=0.5)
            await site.look()
            new = site.tasks.find("one")
            assert new.digest != old.digest
            assert site.loader.is_on_device(new.digest), "loaded before its name is turned to it"
            await asyncio.sleep(0.15)
            assert site.loader.discarded == []
        await site.tasks.drained()
        assert site.loader.discarded == [old.digest]

    run(story)


def test_what_did_not_change_is_not_loaded_again(site: Site) -> None:
    async def story() -> None:
        await site.look()
        task = site.tasks.find("one")
        edit_json(site.folder / "one", lambda raw: raw.update(description="told better"))
        await site.look()
        assert site.tasks.find("one") is task
        assert task.bundle.manifest.description == "told better"
        assert site.loader.loaded == ["one"]
        assert site.loader.discarded == []

    run(story)


def test_a_name_goes_on_with_what_it_has_while_its_new_bundle_is_faulty(site: Site) -> None:
    async def story() -> None:
        await site.look()
        digest = site.tasks.find("one").digest
        edit_json(site.folder / "one", lambda raw: raw.update(surprise=1))
        await site.look()
        assert site.tasks.find("one").digest == digest
        assert "surprise" in site.tasks.faults["one"][0]
        edit_json(site.folder / "one", lambda raw: raw.pop("surprise"))
        await site.look()
        assert site.tasks.faults == {}
        assert site.loader.discarded == []

    run(story)


def test_two_bundles_of_one_name_leave_the_first_in_its_place(site: Site) -> None:
    async def story() -> None:
        await site.look()
        digest = site.tasks.find("one").digest
        save_frame(site.folder / "double", "one", scale=0.5)
        await site.look()
        assert site.tasks.find("one").digest == digest
        assert sorted(site.tasks.faults) == ["double", "one"]

    run(story)


def test_a_refused_bundle_is_tried_again_when_it_changes_or_room_is_made(site: Site) -> None:
    tried: list[str] = []

    async def story() -> None:
        await site.look()
        save_frame(site.folder / "two", "two")
        site.loader.refuses["two"] = CapacityError("no room")
        counted = site.loader.check

        def check(bundle: Any) -> None:
            tried.append(bundle.name)
            counted(bundle)

        site.loader.check = check  # type: ignore[method-assign]
        await site.look()
        await site.look()
        assert tried == ["two"]
        assert site.tasks.faults == {"two": ["no room"]}
        shutil.rmtree(site.folder / "one")
        await site.look()
        await site.look()
        await site.tasks.drained()
        del site.loader.refuses["two"]
        await site.look()
        assert tried == ["two", "two"]
        assert list(site.tasks.tasks) == ["two"]
        assert site.tasks.faults == {}

    run(story)


def test_a_worker_that_fails_to_unload_is_logged_and_harms_no_one(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: str) -> None:
        raise EngineError("slot 1: no such task")

    async def story() -> None:
        await site.look()
        site.loader.discard = fail  # type: ignore[method-assign]
        shutil.rmtree(site.folder / "one")
        await site.look()
        await site.look()
        await site.tasks.drained()
        assert "is not unloaded: slot 1: no such task" in caplog.text

    run(story)


def test_a_store_that_goes_away_changes_nothing_until_it_is_back(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        service = Service(registry=CollectorRegistry(), tasks=site.tasks)
        follow = follow_store(service, StoreReader(site.folder), site.loader, seconds=0.01)
        following = asyncio.create_task(follow)
        await until(lambda: "one" in site.tasks.tasks)
        away = site.folder.with_name("away")
        site.folder.rename(away)
        await until(lambda: "cannot be read, its tasks stay" in caplog.text)
        assert list(site.tasks.tasks) == ["one"]
        save_frame(away / "two", "two")
        away.rename(site.folder)
        await until(lambda: "two" in site.tasks.tasks)
        assert caplog.text.count("cannot be read") == 1
        following.cancel()

    run(story)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def test_a_load_that_the_engine_failed_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(server.tasks, "time", SimpleNamespace(monotonic=lambda: now))

    async def story() -> None:
        nonlocal now
        site.loader.refuses["one"] = EngineError("the line went dead")
        await site.look()
        assert site.tasks.faults == {"one": ["the engine failed to load it; the server's log says how"]}
        del site.loader.refuses["one"]
        await site.look()
        assert "one" not in site.tasks.tasks, "not at every look"
        now += server.tasks._FIRST_RETRY_SECONDS
        await site.look()
        assert "one" in site.tasks.tasks
        assert site.tasks.faults == {}

    run(story)


def test_what_was_drained_is_held_no_more(site: Site) -> None:
    """An engine request that begins long after its HTTP answer fails alone; the workers never see it."""

    async def story() -> None:
        await site.look()
        task = site.tasks.find("one")
        shutil.rmtree(site.folder / "one")
        await site.look()
        await site.look()
        await site.tasks.drained()
        with pytest.raises(TaskNotFoundError):
            async with task.hold():
                pass

    run(story)


def test_figures_that_cannot_be_published_do_not_end_the_following(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        service, failed = Service(registry=CollectorRegistry(), tasks=site.tasks), []

        def publish() -> None:
            failed.append(1)
            raise OSError("no space left")

        monkeypatch.setattr(service, "publish", publish)
        follow = follow_store(service, StoreReader(site.folder), site.loader, seconds=0.01)
        following = asyncio.create_task(follow)
        await until(lambda: len(failed) > 2)
        following.cancel()

    run(story)


def test_a_store_larger_than_the_device_is_served_whole(site: Site) -> None:
    """Tasks come to the device until it is full; the others are served all the same, and pinned ones come."""

    async def story() -> None:
        site.loader.rooms, site.loader.pinned = 2, {"zebra"}
        for name, scale in (("two", 0.2), ("three", 0.3), ("zebra", 0.4)):
            save_frame(site.folder / name, name, scale=scale)
        await site.look()
        assert sorted(site.tasks.tasks) == ["one", "three", "two", "zebra"]
        assert site.loader.loaded == ["one", "three", "zebra"]
        async with site.tasks.find("two").hold() as handle:
            assert handle.digest == site.tasks.find("two").digest

    run(story)


def test_a_swap_on_a_busy_device_does_not_hold_the_store_up(site: Site) -> None:
    async def story() -> None:
        await site.look()
        old = site.tasks.find("one").digest
        site.loader.is_busy = True
        save_frame(site.folder / "one", "one", scale=0.5)
        await site.look()
        assert site.tasks.find("one").digest != old

    run(story)


def test_two_names_of_one_digest_part_in_peace(site: Site) -> None:
    """The one that goes does not take the other off the device."""

    async def story() -> None:
        save_frame(site.folder / "twin", "twin")
        await site.look()
        shutil.rmtree(site.folder / "one")
        await site.look()
        await site.look()
        await site.tasks.drained()
        assert site.loader.discarded == []
        shutil.rmtree(site.folder / "twin")
        await site.look()
        await site.look()
        await site.tasks.drained()
        assert len(site.loader.discarded) == 1

    run(story)


def test_whoever_waits_for_the_store_goes_on_after_the_next_look(site: Site) -> None:
    async def story() -> None:
        await site.look()
        waiting = asyncio.create_task(site.tasks.next_look())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await site.look()
        await waiting

    run(story)
