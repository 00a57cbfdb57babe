"""Tasks move between store, host and device; requests hold them there, and wait for those that are cold."""

import asyncio
from pathlib import Path

import pytest

import server.engine.residency
import server.engine.tiers
import server.engine.workers
from prompts.bundle import Bundle, load_bundle
from prompts.errors import CapacityError, EngineError, StaleBundleError
from server.engine.handles import TaskHandle
from server.engine.residency import Residency
from tests.engine.two_workers import Engine, make_residency, run, save, settle

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    """Five tasks of two prompt tokens: three would fill the rows, two the places."""
    return [save(tmp_path / f"task-{index}", index) for index in range(5)]


def test_the_least_used_task_makes_room_and_comes_back_from_host_memory(bundles: list[Bundle]) -> None:
    engine = Engine()
    loads: list[tuple[str, str]] = []

    async def use(residency: Residency, index: int) -> TaskHandle:
        async with residency.using(bundles[index]) as handle:
            return handle

    async def story() -> None:
        residency = make_residency(engine)
        residency.observe_load = lambda name, tier, seconds: loads.append((name, tier))
        first = await use(residency, 0)
        await use(residency, 1)
        await use(residency, 0)
        await use(residency, 2)
        assert engine.on_device() == {bundles[0].digest, bundles[2].digest}
        await use(residency, 1)
        assert engine.on_device() == {bundles[1].digest, bundles[2].digest}
        again = await use(residency, 0)
        assert again.cache_key == first.cache_key
        assert loads == [
            ("task-0", "store"),
            ("task-1", "store"),
            ("task-2", "store"),
            ("task-1", "host"),
            ("task-0", "host"),
        ]

    run(story)


def test_a_cold_request_waits_for_room_and_a_hot_one_for_nothing(
    bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.engine.residency, "_PATIENCE_SECONDS", 60.0)
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        held = [await residency.acquire(bundle) for bundle in bundles[:2]]
        cold = asyncio.create_task(residency.acquire(bundles[2]))
        await settle()  # files are read side by side: whoever is read first is first in the line
        behind = asyncio.create_task(residency.acquire(bundles[3]))
        await settle()
        assert not cold.done()
        hot = await asyncio.wait_for(residency.acquire(bundles[0]), 5)
        residency.release(hot)
        with pytest.raises(CapacityError, match=r"no room on the device \(tasks\)"):
            await asyncio.wait_for(make_residency(Engine(), share=3).acquire(bundles[0], is_patient=False), 5)
        residency.release(held[1])
        assert (await cold).digest == bundles[2].digest
        assert engine.on_device() == {bundles[0].digest, bundles[2].digest}
        assert not behind.done()
        residency.release(held[0])
        assert (await behind).digest == bundles[3].digest

    run(story)


def test_what_is_on_its_way_has_its_room_already(bundles: list[Bundle]) -> None:
    async def story() -> None:
        residency = make_residency(Engine())
        assert residency.has_room(bundles[2])
        coming = [asyncio.create_task(residency.acquire(bundle)) for bundle in bundles[:2]]
        await asyncio.sleep(0)
        assert not residency.is_on_device(bundles[1].digest)
        assert not residency.has_room(bundles[2])
        await asyncio.gather(*coming)

    run(story)


def test_many_that_want_one_cold_task_load_it_once(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        handles = await asyncio.gather(*(residency.acquire(bundles[0]) for _ in range(8)))
        assert {handle.slot for handle in handles} == {1}
        assert len(engine.workers[0].bank.find(bundles[0].digest).loads) == 1
        for handle in handles[1:]:
            residency.release(handle)
        await residency.discard(bundles[0].digest)
        assert engine.on_device() == {bundles[0].digest}, "one request holds it still"
        residency.release(handles[0])
        await residency.discard(bundles[0].digest)
        assert engine.on_device() == set()
        assert engine.workers[0].tiers.host_tasks == 0

    run(story)


def test_one_who_gives_up_waiting_leaves_nothing_behind(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        held = [await residency.acquire(bundle) for bundle in bundles[:2]]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(residency.acquire(bundles[2]), 0.05)
        residency.release(held[0])
        await settle()
        async with residency.using(bundles[3]):
            assert engine.on_device() == {bundles[1].digest, bundles[3].digest}

    run(story)


def test_tasks_in_use_all_the_time_do_not_keep_a_cold_one_out(
    bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests for two hot tasks overlap without a gap; each holds its task twice, as the server does."""
    monkeypatch.setattr(server.engine.residency, "_PATIENCE_SECONDS", 0.05)
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        answered = [0, 0, 0]

        async def ask(index: int) -> None:
            async with residency.using(bundles[index]):
                await asyncio.sleep(0.01)
                async with residency.using(bundles[index], is_held=True):
                    await asyncio.sleep(0.01)
            answered[index] += 1

        async def keep_asking(index: int, *, offset: float) -> None:
            await asyncio.sleep(offset)
            while True:
                await ask(index)

        hot = [
            asyncio.create_task(keep_asking(index, offset=offset))
            for index in (0, 1)
            for offset in (0.0, 0.007, 0.014)
        ]
        await asyncio.sleep(0.1)
        await asyncio.wait_for(asyncio.gather(*(ask(2) for _ in range(5))), 5)
        before = list(answered)
        await asyncio.sleep(0.5)
        assert answered[0] > before[0]
        assert answered[1] > before[1], "and all of them go on"
        for one in hot:
            one.cancel()
        await asyncio.gather(*hot, return_exceptions=True)

    run(story)


def test_a_task_that_was_to_leave_stays_where_room_came_from_another(
    bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.engine.residency, "_PATIENCE_SECONDS", 0.05)
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        held = [await residency.acquire(bundle) for bundle in bundles[:2]]
        cold = asyncio.create_task(residency.acquire(bundles[2]))
        await asyncio.sleep(0.2)
        more = asyncio.create_task(residency.acquire(bundles[0]))  # the one that is to leave
        await asyncio.sleep(0.05)
        assert not more.done(), "others waited longer for its room"
        residency.release(held[1])
        assert (await cold).digest == bundles[2].digest
        assert (await asyncio.wait_for(more, 1)).digest == bundles[0].digest
        assert engine.on_device() == {bundles[0].digest, bundles[2].digest}

    run(story)


def test_room_is_counted_by_the_row(tmp_path: Path) -> None:
    engine = Engine()
    small, large, other = (save(tmp_path / f"of-{n}", n, length=n) for n in (1, 5, 2))

    async def story() -> None:
        residency = make_residency(engine)
        for bundle in (large, small, other):
            async with residency.using(bundle):
                pass
        assert engine.on_device() == {small.digest, other.digest}, "five rows had to go for two, the one not"

    run(story)


def test_a_load_that_one_worker_refuses_is_undone_in_the_other(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        engine.workers[1].refuses_loads = True
        with pytest.raises(EngineError, match="out of memory"):
            await residency.acquire(bundles[0])
        assert engine.on_device() == set()
        engine.workers[1].refuses_loads = False
        handle = await residency.acquire(bundles[1])
        assert {worker.bank.find(handle.digest).slot for worker in engine.workers} == {handle.slot}

    run(story)


def test_a_bundle_exchanged_while_its_task_was_cold_is_never_served(bundles: list[Bundle]) -> None:
    engine = Engine(host_tasks=1)

    async def story() -> None:
        residency = make_residency(engine)
        for bundle in bundles[:4]:
            async with residency.using(bundle):
                pass
        assert bundles[0].path is not None
        save(bundles[0].path, 99)
        with pytest.raises(StaleBundleError, match="changed"):
            await residency.acquire(bundles[0])
        new = load_bundle(bundles[0].path)
        async with residency.using(new) as handle:
            assert handle.digest == new.digest

    run(story)


def test_host_memory_holds_as_many_as_it_may(bundles: list[Bundle]) -> None:
    engine = Engine(host_tasks=2)

    async def story() -> None:
        residency = make_residency(engine)
        for bundle in bundles:
            async with residency.using(bundle):
                pass
        assert [worker.tiers.host_tasks for worker in engine.workers] == [2, 2]

    run(story)
