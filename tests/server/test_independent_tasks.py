"""Names are independent, a slow one holds up no other; and what is unproven takes no working one's place."""

import asyncio
import shutil
from pathlib import Path

import pytest

import server.tasks
from prompts.bundle import Bundle, load_bundle
from prompts.errors import CapacityError
from prompts.manifest import Usage
from server.canary import CanaryLoader
from tests.prompts.canaries import canary_for, put_canary
from tests.prompts.sample import BASE, save_frame
from tests.server.test_canary import Site as CanarySite
from tests.server.test_canary import save_with_canary
from tests.server.test_tasks import Site, run, until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    save_frame(tmp_path / "one", "one")
    return Site(tmp_path)


@pytest.fixture
def canaries(tmp_path: Path) -> CanarySite:
    for name in ("good", "bad"):
        save_with_canary(tmp_path, name)
    return CanarySite(tmp_path)


@pytest.fixture
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.tasks, "_SETTLE_SECONDS", 0.05)


def stuck(site: Site, name: str, *, scale: float) -> str:
    """Save a bundle that takes for ever to come to the device; gives its digest."""
    digest = save_frame(site.folder / name, name, scale=scale).digest
    site.loader.stuck.add(digest)
    return digest


@pytest.mark.usefixtures("_short_looks")
def test_a_warm_up_that_hangs_holds_up_no_other_name(site: Site) -> None:
    async def story() -> None:
        save_frame(site.folder / "two", "two", scale=0.2)
        save_frame(site.folder / "gone", "gone", scale=0.3)
        await site.look()
        first, gone = site.tasks.find("one"), site.tasks.find("gone").digest
        slow = stuck(site, "one", scale=0.5)
        await site.look()
        swapped = save_frame(site.folder / "two", "two", scale=0.6).digest
        save_frame(site.folder / "new", "new", scale=0.7)
        shutil.rmtree(site.folder / "gone")
        await site.look()
        await site.look()
        assert sorted(site.tasks.tasks) == ["new", "one", "two"]
        assert site.tasks.find("two").digest == swapped
        await site.tasks.drained()
        assert gone in site.loader.discarded
        assert (site.tasks.find("one"), site.loader.coming) == (first, ["one"])
        site.loader.stuck.clear()
        await until(lambda: site.tasks.find("one").digest == slow)
        await site.look()
        assert site.tasks.faults == {}

    run(story)


@pytest.mark.usefixtures("_short_looks")
def test_a_bundle_that_the_store_holds_no_more_is_given_up(site: Site) -> None:
    async def story() -> None:
        await site.look()
        stuck(site, "one", scale=0.5)
        stuck(site, "two", scale=0.6)
        await site.look()
        assert site.loader.coming == ["one", "two"]
        newest = save_frame(site.folder / "one", "one", scale=0.7).digest
        shutil.rmtree(site.folder / "two")
        await site.look()
        assert site.tasks.find("one").digest == newest
        assert site.loader.coming == []
        site.loader.stuck.clear()
        await site.look()
        assert (list(site.tasks.tasks), site.loader.loaded) == (["one"], ["one", "one"])

    run(story)


@pytest.mark.usefixtures("_short_looks")
def test_few_come_to_the_device_at_a_time_and_what_need_not_come_waits_for_none(site: Site) -> None:
    async def story() -> None:
        await site.look()
        for index in range(8):
            stuck(site, f"slow{index}", scale=0.1 + index / 100)
        await site.look()
        assert site.loader.coming == ["slow0", "slow1", "slow2", "slow3"]
        site.loader.rooms = 5
        save_frame(site.folder / "cold", "cold", scale=0.5)
        await site.look()
        assert sorted(site.tasks.tasks) == ["cold", "one"]
        site.loader.stuck.clear()
        await until(lambda: len(site.tasks.tasks) == 10)
        assert site.loader.loaded == ["one", "slow0", "slow1", "slow2", "slow3"]

    run(story)


@pytest.mark.usefixtures("_short_looks")
def test_a_fault_stays_told_while_the_bundle_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.tasks, "_FIRST_RETRY_SECONDS", 0.0)

    async def story() -> None:
        await site.look()
        stuck(site, "two", scale=0.5)
        site.loader.refuses["two"] = CapacityError("no room")
        await site.look()
        del site.loader.refuses["two"]
        await site.look()
        assert (site.tasks.faults, site.loader.coming) == ({"two": ["no room"]}, ["two"])
        site.loader.stuck.clear()
        await until(lambda: "two" in site.tasks.tasks)
        await site.look()
        assert site.tasks.faults == {}

    run(story)


def test_an_error_of_ours_in_one_name_reaches_the_log_and_stops_no_other(site: Site) -> None:
    async def story() -> None:
        await site.look()
        save_frame(site.folder / "new", "new", scale=0.5)
        save_frame(site.folder / "a", "a", scale=0.6)
        site.loader.refuses["a"] = ValueError("a slip")  # type: ignore[assignment]
        with pytest.raises(ValueError, match="a slip"):
            await site.look()
        assert sorted(site.tasks.tasks) == ["new", "one"]
        site.loader.refuses.clear()
        await site.look()
        assert sorted(site.tasks.tasks) == ["a", "new", "one"]

    run(story)


@pytest.mark.usefixtures("_short_looks")
def test_an_unseen_bundle_takes_no_working_ones_place_on_a_full_device(canaries: CanarySite) -> None:
    """It waits for room as a request does, however long that takes."""

    async def story() -> None:
        await canaries.look()
        before = canaries.tasks.find("good")
        canaries.inner.is_busy = True
        changed = save_with_canary(canaries.folder, "good", Usage(choices=("cat", "dog")))
        await canaries.look()
        assert (canaries.tasks.find("good"), canaries.inner.coming) == (before, ["good"])
        canaries.inner.is_busy = False
        await until(lambda: canaries.tasks.find("good") is not before)
        assert canaries.tasks.find("good").digest == changed.digest
        assert canaries.asker.asked == ["bad", "good", "good"]

    run(story)


def test_an_unseen_bundle_takes_no_cold_ones_place_either(canaries: CanarySite) -> None:
    """On a device that was full all along: the name goes on with the old until the new one has passed."""

    async def story() -> None:
        canaries.inner.rooms = 0
        await canaries.look()
        before = canaries.tasks.find("bad")
        changed = save_with_canary(canaries.folder, "bad", Usage(choices=("cat", "dog")))
        canaries.asker.off["bad"] = 0.5
        await canaries.look()
        assert canaries.tasks.find("bad") is before
        assert "all inputs" in canaries.tasks.faults["bad"][0]
        del canaries.asker.off["bad"]
        put_canary(canaries.folder / "bad", canary_for(changed, BASE.model_copy(update={"id": "x"})))
        await canaries.look()
        assert canaries.tasks.find("bad").digest == changed.digest
        assert canaries.asker.asked == ["bad", "bad"]

    run(story)


@pytest.mark.parametrize("reason", ["passed", "warns", "cannot be compared"])
def test_what_need_not_pass_takes_a_cold_ones_place_at_once(canaries: CanarySite, reason: str) -> None:
    async def story() -> None:
        changed = save_with_canary(canaries.folder, "good", Usage(choices=("cat", "dog")))
        if reason == "passed":
            async with canaries.loader.using(changed):
                pass
            await canaries.inner.discard(changed.digest)
        if reason == "warns":
            canaries.loader = CanaryLoader(canaries.inner, canaries.asker, base=BASE, only_warn=True)
        canaries.asker.unable = "no logprobs" if reason == "cannot be compared" else None
        save_with_canary(canaries.folder, "good")
        canaries.inner.rooms = 0
        await canaries.look()
        asked = list(canaries.asker.asked)
        save_with_canary(canaries.folder, "good", Usage(choices=("cat", "dog")))
        canaries.inner.is_busy = True
        await canaries.look()
        assert canaries.tasks.find("good").digest == changed.digest
        assert canaries.asker.asked == asked

    run(story)


def test_a_canary_that_is_not_answered_keeps_no_other_waiting(canaries: CanarySite) -> None:
    async def story() -> None:
        canaries.asker.silent.add("bad")
        looking = asyncio.create_task(canaries.look())
        await until(lambda: "good" in canaries.tasks.tasks)
        assert (list(canaries.tasks.tasks), looking.done()) == (["good"], False)
        canaries.asker.silent.clear()
        await looking
        assert sorted(canaries.tasks.tasks) == ["bad", "good"]

    run(story)


def test_two_who_come_at_once_wait_for_one_canary(canaries: CanarySite) -> None:
    async def hold(bundle: Bundle) -> None:
        async with canaries.loader.using(bundle):
            pass

    async def story() -> None:
        bundle = load_bundle(canaries.folder / "good")
        canaries.asker.silent.add("good")
        both = [asyncio.create_task(hold(bundle)) for _ in range(2)]
        await until(lambda: bool(canaries.asker.asked))
        await asyncio.sleep(0.05)
        canaries.asker.silent.clear()
        await asyncio.gather(*both)
        assert canaries.asker.asked == ["good"]

    run(story)
