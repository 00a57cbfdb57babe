"""Tasks move between store, host and device: two workers with real banks, their engine left out.

`Engine` is vLLM's `collective_rpc` alone: each call goes to every worker, in one order.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import server.engine.residency
import server.engine.tiers
import server.engine.workers
from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.errors import BundleError, CapacityError, EngineError, PassepartoutError, StaleBundleError
from prompts.manifest import Manifest, TextSpec
from server.engine.bank import PromptBank
from server.engine.facts import EngineFacts, Room
from server.engine.handles import TaskHandle
from server.engine.residency import Residency
from server.engine.tiers import WorkerTiers
from server.engine.workers import Workers
from tests.prompts.sample import BASE

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

ROOM = Room(tasks=2, text_rows=6, text_vectors=12)
FACTS = EngineFacts(
    model="m",
    text_layers=2,
    text_hidden=4,
    vision_layers=0,
    vision_hidden=0,
    projector={},
    lm_head=(9, 4),
    max_text_length=8,
    max_vision_length=0,
    room=ROOM,
    refusals={},
)


class Worker:
    """`PromptWorkerExtension` without a model."""

    def __init__(self, *, host_tasks: int) -> None:
        self.bank = PromptBank(FACTS, max_step_tokens=4, dtype=torch.float32, device=torch.device("cpu"))
        self.tiers = WorkerTiers(self.bank, FACTS, host_tasks=host_tasks)
        self.refuses_loads = False

    def passepartout_stage(self, path: str, digest: str) -> str:
        return self.tiers.stage(path, digest)

    def passepartout_load(self, digest: str, token: str) -> int:
        if self.refuses_loads:
            self.bank.slot_of(digest)
            raise RuntimeError("out of memory")
        return self.tiers.load(digest, token).slot

    def passepartout_unload(self, digest: str, token: str) -> int:
        return self.tiers.unload(digest, token)

    def passepartout_forget(self, digest: str) -> None:
        self.tiers.forget(digest)


class Engine:
    """Two ranks of one engine."""

    def __init__(self, *, host_tasks: int = 8) -> None:
        self.workers = [Worker(host_tasks=host_tasks) for _ in range(2)]

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> list[Any]:
        await asyncio.sleep(0)
        return [answer(lambda one=one: getattr(one, method)(*args)) for one in self.workers]

    def on_device(self) -> set[str]:
        """Digests, the same in both."""
        first, second = ({one.digest for one in worker.bank._residents.values()} for worker in self.workers)
        assert first == second
        return first


def answer(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": call()}
    except RuntimeError as error:
        return {"code": EngineError.code, "message": str(error)}
    except PassepartoutError as error:
        return {"code": error.code, "message": str(error)}


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    """Five tasks of two prompt tokens: three would fill the rows, two the places."""
    return [save(tmp_path / f"task-{index}", index) for index in range(5)]


def save(folder: Path, seed: int, *, length: int = 2) -> Bundle:
    spec = TextSpec(layers=2, length=length, hidden=4)
    values = torch.randn(2, length, 4, generator=torch.Generator().manual_seed(seed))
    manifest = Manifest(name=folder.name, version="1", base_model=BASE, text=spec)
    return save_bundle(folder, manifest, {"text.prompts": values})


def make_residency(engine: Engine, **options: Any) -> Residency:
    return Residency(Workers(engine), facts=FACTS, base=BASE, **options)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0.002)


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


def test_a_cold_request_waits_for_room_and_a_hot_one_for_nothing(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine)
        held = [await residency.acquire(bundle) for bundle in bundles[:2]]
        cold = asyncio.create_task(residency.acquire(bundles[2]))
        behind = asyncio.create_task(residency.acquire(bundles[3]))
        await settle()
        assert not cold.done()
        hot = await asyncio.wait_for(residency.acquire(bundles[0]), 0.05)
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


def test_a_pinned_task_never_leaves(bundles: list[Bundle]) -> None:
    engine = Engine()

    async def story() -> None:
        residency = make_residency(engine, pinned=["task-0"])
        for index in (0, 1, 2, 3, 4):
            async with residency.using(bundles[index]):
                pass
            assert bundles[0].digest in engine.on_device()

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
    monkeypatch.setattr(server.engine.workers, "_READ_SECONDS", 0.3)

    async def story() -> None:
        residency = make_residency(engine)
        hangs = asyncio.create_task(residency.acquire(bundles[0]))
        await asyncio.sleep(0.05)
        residency.release(await asyncio.wait_for(residency.acquire(bundles[1]), 0.2))
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
