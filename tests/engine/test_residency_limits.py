"""Pins, full devices, reads that hang, several front ends: what keeps a task out, and how others go on."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import server.engine.residency
import server.engine.tiers
import server.engine.workers
from prompts.bundle import Bundle, load_bundle
from prompts.errors import BundleError, CapacityError, EngineError
from tests.engine.two_workers import Engine, make_residency, run, save

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    """Five tasks of two prompt tokens: three would fill the rows, two the places."""
    return [save(tmp_path / f"task-{index}", index) for index in range(5)]


def test_a_pinned_task_never_leaves(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine, pinned=["task-0"])
        for index in (0, 1, 2, 3, 4):
            async with residency.using(bundles[index]):
                pass
            assert bundles[0].digest in engine.on_device()

    run(story)


def test_a_pinned_task_that_changes_gives_its_room_back(tmp_path: Path) -> None:
    """Old and new are both of the pinned name: the old one may go once the name means the new one."""
    engine = Engine()
    old, new, cold = save(tmp_path / "pinned", 1), save(tmp_path / "new", 2), save(tmp_path / "cold", 3)
    new = replace(new, manifest=new.manifest.model_copy(update={"name": "pinned"}))

    async def story() -> None:
        residency = make_residency(engine, pinned=["pinned"])
        using_old = await residency.acquire(old)
        residency.release(await residency.acquire(new))
        with pytest.raises(CapacityError, match="pinned tasks have it"):
            await residency.acquire(cold)
        residency.unpin(old.digest)
        waiting = asyncio.create_task(residency.acquire(cold))
        await asyncio.sleep(0.05)
        residency.release(using_old)
        assert (await asyncio.wait_for(waiting, 2)).digest == cold.digest
        assert engine.on_device() == {new.digest, cold.digest}

    run(story)


def test_what_pinned_tasks_leave_no_room_for_is_refused_and_holds_no_one_up(tmp_path: Path) -> None:
    engine = Engine()
    pinned, large, small = (save(tmp_path / name, n, length=n) for name, n in (("p", 4), ("l", 3), ("s", 1)))

    async def story() -> None:
        residency = make_residency(engine, pinned=["p"])
        residency.check(large)
        residency.release(await residency.acquire(pinned))
        with pytest.raises(BundleError, match="room for text_rows: expected at most 2, came 3"):
            residency.check(large)
        with pytest.raises(CapacityError, match="pinned tasks have it"):
            await residency.acquire(large)
        async with residency.using(small):
            assert engine.on_device() == {pinned.digest, small.digest}

    run(story)


def test_one_that_does_not_wait_is_told_so_while_another_waits(bundles: list[Bundle]) -> None:
    """Also where it asked before the other had to wait; and it takes none down that would have waited."""
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        held = [await residency.acquire(bundle) for bundle in bundles[:2]]
        waits = asyncio.create_task(residency.acquire(bundles[2]))
        hasty = asyncio.create_task(residency.acquire(bundles[3], is_patient=False))
        await asyncio.sleep(0)
        joined = asyncio.create_task(residency.acquire(bundles[3]))
        with pytest.raises(CapacityError):
            await asyncio.wait_for(hasty, 1)
        residency.release(held[0])
        residency.release(held[1])
        assert (await waits).digest == bundles[2].digest
        assert (await asyncio.wait_for(joined, 2)).digest == bundles[3].digest

    run(story)


def test_a_read_that_hangs_keeps_no_other_waiting(
    bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, let_go = Engine(), threading.Event()
    stuck = bundles[0].digest

    def read(path: Path) -> Bundle:
        bundle = load_bundle(path)
        if bundle.digest == stuck:
            let_go.wait(10)
        return bundle

    monkeypatch.setattr(server.engine.tiers, "load_bundle", read)
    monkeypatch.setattr(server.engine.workers, "_READ_SECONDS", 1.0)

    async def story() -> None:
        residency = make_residency(engine)
        hangs = asyncio.create_task(residency.acquire(bundles[0]))
        await asyncio.sleep(0.05)
        residency.release(await asyncio.wait_for(residency.acquire(bundles[1]), 5))
        with pytest.raises(EngineError, match="is not read within"):
            await hangs
        let_go.set()

    run(story)


def test_a_copy_that_another_front_end_had_dropped_is_read_again(bundles: list[Bundle]) -> None:
    engine, dropped = Engine(), []

    async def story() -> None:
        residency = make_residency(engine)
        load = residency._workers.load

        async def drop_once(digest: str, token: str) -> int:
            if not dropped:
                dropped.append(digest)
                await residency._workers.forget(digest)
            return await load(digest, token)

        residency._workers.load = drop_once  # type: ignore[method-assign]
        assert (await residency.acquire(bundles[0])).slot == 1

    run(story)


def test_what_never_came_to_the_device_leaves_host_memory_too(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        for bundle in bundles[:2]:
            await residency.acquire(bundle)
        with pytest.raises(CapacityError):
            await residency.acquire(bundles[2], is_patient=False)
        assert [worker.tiers.host_tasks for worker in engine.workers] == [2, 2]

    run(story)
