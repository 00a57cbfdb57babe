"""Which tasks are on the device: brought there for the requests that name them, the least used one leaves.

Tiers: the store (any number of bundles), host memory in each worker (`host.py`), the device (`bank.py`).
A request holds its task on the device from before its prompt is rendered until its last token. One that
names a cold task waits until the task is there; no other waits for it. All of this is in the front end; the
workers do as they are told (`workers.py`).
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from prompts.bundle import Bundle
from prompts.errors import (
    BaseModelMismatchError,
    BundleError,
    CapacityError,
    ConfigError,
    EngineError,
    NotStagedError,
    PassepartoutError,
)
from prompts.faults import fault
from prompts.fingerprint import base_model_ref
from prompts.manifest import BaseModelRef
from server.canary_result import CanaryResult
from server.engine.facts import EngineFacts, Room, find_misfits
from server.engine.handles import TaskFrame, TaskHandle
from server.engine.workers import WorkerCalls, Workers

__all__ = ["LoadObserver", "Residency"]

_PATIENCE_SECONDS = 1.0
"""How long a cold task waits for room before one that is in use all the time has to let it have some."""

_ATTEMPTS = 3
_TURN_SECONDS = 0.05
"""How often one that does not wait for room looks whether it would have to."""

LoadObserver = Callable[[str, Literal["host", "store"], float], None]
"""Told of each load: the task's name, the tier it came from, the seconds (waiting for room included)."""


@dataclass(eq=False)
class _Entry:
    """A task on the device, or on its way there: `bringing` is done once it is.

    `token`: this load's name in the workers. `leaves`: it is to go when nobody holds it any more; `gone` is
    set when it has gone, or need not.
    """

    bundle: Bundle
    room: Room
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    bringing: asyncio.Task[None] | None = None
    handle: TaskHandle | None = None
    holds: int = 0
    is_pinned: bool = False
    leaves: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def stay(self) -> None:
        """Calls off its leaving, and wakes those who waited for it."""
        if self.leaves:
            self.leaves = False
            self.gone.set()
            self.gone = asyncio.Event()


class Residency:
    """The device tier of one engine, as one front end sees it.

    Build it with `await Residency.connect(engine, model_folder)`. `share`: front ends of this engine; each
    keeps to its part of the room, so that none waits for what another holds.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        facts: EngineFacts,
        base: BaseModelRef,
        pinned: Collection[str] = (),
        share: int = 1,
    ) -> None:
        self.facts = facts
        self.base = base
        self._workers = workers
        self._pinned = frozenset(pinned)
        self._room = facts.room.share(share)
        self._free = self._room
        self.observe_load: LoadObserver = lambda name, tier, seconds: None
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """Digest -> entry, least recently used first."""
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()
        self._is_full = False
        """Whether the one whose turn it is waits for room."""

    @classmethod
    async def connect(
        cls, engine: WorkerCalls, model_folder: Path, *, pinned: Collection[str] = (), share: int = 1
    ) -> Self:
        """Asks the workers for their shapes and reads the identity of the checkpoint in `model_folder`.

        Raises:
            EngineError: the engine does not run our plugin and worker extension.
            BaseModelError: the folder holds no checkpoint.
            ConfigError: as many pinned names as there are places for each front end.
        """
        base = await asyncio.to_thread(base_model_ref, model_folder)
        workers = Workers(engine)
        residency = cls(workers, facts=await workers.facts(), base=base, pinned=pinned, share=share)
        if pinned and len(pinned) >= residency._room.tasks:
            came, cure = f"{len(pinned)} names", "pin fewer, or raise --max-device-tasks"
            expected = f"fewer than each front end has places on the device ({residency._room.tasks})"
            raise ConfigError(
                "passepartout serve", [fault("--pin-tasks", expected=expected, came=came, cure=cure)]
            )
        return residency

    def check(self, bundle: Bundle) -> None:
        """Says at once whether `bundle` can be served here.

        Raises:
            BaseModelMismatchError: trained for another checkpoint.
            BundleError: shapes, lengths or parts this engine does not take; each named.
            ConfigError: a bundle that was never saved (workers read it from its folder).
        """
        self._check_base(bundle)
        misfits = find_misfits(bundle, self.facts, self._room - self._pinned_room(but_of=bundle.name))
        if misfits:
            raise BundleError(bundle.path or Path(bundle.name), misfits)
        if bundle.path is None:
            came, cure = "a bundle in memory", "save it with prompts.bundle.save_bundle and load that"
            raise ConfigError(bundle.name, [fault("path", expected="a folder", came=came, cure=cure)])

    def is_on_device(self, digest: str) -> bool:
        """Whether a request for that digest would wait for nothing."""
        entry = self._entries.get(digest)
        return entry is not None and entry.handle is not None

    def is_pinned(self, bundle: Bundle) -> bool:
        """Whether the operator wants it to stay on the device."""
        return bundle.name in self._pinned

    def has_room(self, bundle: Bundle) -> bool:
        """Whether it could come to the device and none had to leave; what is on its way has its room."""
        coming = (one.room for one in self._entries.values() if one.handle is None)
        return not (self._free - sum(coming, Room())).lacks(Room.of(bundle.manifest))

    def is_unproven(self, bundle: Bundle) -> bool:
        """Never: no canary is asked here; see `server.canary.CanaryLoader`."""
        return False

    def canary_result(self, bundle: Bundle) -> CanaryResult:
        """That it is not asked here; see `server.canary.CanaryLoader`."""
        return CanaryResult("none" if bundle.canary is None else "off")

    @asynccontextmanager
    async def using(
        self, bundle: Bundle, *, is_held: bool = False, is_patient: bool = True
    ) -> AsyncIterator[TaskHandle]:
        """Holds `bundle` on the device for as long as this is open; see `acquire`."""
        handle = await self.acquire(bundle, is_held=is_held, is_patient=is_patient)
        try:
            yield handle
        finally:
            self.release(handle)

    async def acquire(self, bundle: Bundle, *, is_patient: bool = True, is_held: bool = False) -> TaskHandle:
        """Brings `bundle`, which `check` found good, to the device if it is not there, and holds it.

        It waits for room: until requests for other tasks end. The same digest under two names is one task.
        `is_held`: on behalf of a request that holds it already. Undo it with `release`.

        Raises:
            CapacityError: not `is_patient`, and all room is held; or pinned tasks have it for good.
            StaleBundleError: the bundle's folder holds something else by now.
            EngineError: the workers failed.
        """
        while True:
            entry, is_own = await self._join(bundle, is_patient=is_patient, is_held=is_held)
            try:
                if entry.handle is None:
                    assert entry.bringing is not None
                    await asyncio.shield(entry.bringing)
            except BaseException as error:
                self._let_go(entry)
                if isinstance(error, CapacityError) and is_patient and not is_own:
                    continue  # whoever had it brought would not wait; this one will
                raise
            assert entry.handle is not None
            return replace(entry.handle, name=bundle.name)

    def release(self, handle: TaskHandle) -> None:
        """Undoes one `acquire`; the task stays on the device until its room is needed."""
        self._let_go(self._entries[handle.digest])

    def unpin(self, digest: str) -> None:
        """Lets a task go that no pinned name means any more."""
        entry = self._entries.get(digest)
        if entry is not None:
            entry.is_pinned = False
            self._released.set()

    async def discard(self, digest: str) -> None:
        """Takes a task that no request holds off the device and out of host memory.

        Raises:
            EngineError: the workers failed.
        """
        entry = self._entries.get(digest)
        if entry is not None and entry.holds == 0 and entry.handle is not None:
            await self._evict(entry)
        if digest not in self._entries:
            await self._workers.forget(digest)

    async def _join(self, bundle: Bundle, *, is_patient: bool, is_held: bool) -> tuple[_Entry, bool]:
        """The entry of a bundle, held once more, and whether it was made here, its bringing begun."""
        while (entry := self._entries.get(bundle.digest)) and entry.leaves and not (is_held and entry.holds):
            await entry.gone.wait()  # those who waited longer for its room come first
        is_own = entry is None
        if entry is None:
            entry = self._entries[bundle.digest] = _Entry(bundle, Room.of(bundle.manifest))
            entry.bringing = asyncio.create_task(self._bring(entry, is_patient=is_patient))
            entry.bringing.add_done_callback(_note_outcome)
        entry.is_pinned |= self.is_pinned(bundle)
        self._entries.move_to_end(bundle.digest)
        entry.holds += 1
        return entry, is_own

    def _let_go(self, entry: _Entry) -> None:
        entry.holds -= 1
        if entry.holds == 0:
            self._released.set()

    async def _bring(self, entry: _Entry, *, is_patient: bool) -> None:
        bundle, started = entry.bundle, asyncio.get_running_loop().time()
        try:
            from_host, slot = await self._place(entry, is_patient=is_patient)
        except BaseException as error:
            del self._entries[bundle.digest]
            if isinstance(error, Exception):
                with suppress(PassepartoutError):
                    await self._workers.forget(bundle.digest)
            raise
        entry.handle = _make_handle(bundle, slot)
        seconds = asyncio.get_running_loop().time() - started
        self.observe_load(bundle.name, "host" if from_host else "store", seconds)

    async def _place(self, entry: _Entry, *, is_patient: bool) -> tuple[bool, int]:
        """Whether it came from host memory, and its slot. Files are read side by side, room is made by one at
        a time; those that wait for it keep their place in the line."""
        bundle = entry.bundle
        assert bundle.path is not None
        for _ in range(_ATTEMPTS):
            from_host = await self._workers.stage(bundle.path.resolve(), bundle.digest)
            await self._take_turn(is_patient=is_patient)
            try:
                await self._make_room(entry.room, is_patient=is_patient)
                slot = await self._workers.load(bundle.digest, entry.token)
                self._free -= entry.room
                return from_host, slot
            except NotStagedError:  # another front end had it dropped meanwhile
                continue
            finally:
                self._turn.release()
        raise EngineError(f"task {bundle.name}: its copy in host memory is dropped before it can be used")

    async def _take_turn(self, *, is_patient: bool) -> None:
        while True:
            if self._is_full and not is_patient:
                raise CapacityError("no room on the device: others wait for it already")
            try:
                await asyncio.wait_for(self._turn.acquire(), None if is_patient else _TURN_SECONDS)
                return
            except TimeoutError:
                continue

    async def _make_room(self, needed: Room, *, is_patient: bool) -> None:
        try:
            await self._evict_for(needed, is_patient=is_patient)
        finally:  # room may have come from elsewhere: those that were to leave for it stay
            for entry in self._entries.values():
                entry.stay()

    async def _evict_for(self, needed: Room, *, is_patient: bool) -> None:
        while lacking := self._free.lacks(needed):
            self._released.clear()
            if wanting := (self._room - self._pinned_room()).lacks(needed):
                raise CapacityError(f"no room on the device ({', '.join(wanting)}): pinned tasks have it")
            victim = next((one for one in self._entries.values() if _may_leave(one, lacking)), None)
            if victim is not None:
                await self._evict(victim)
            elif is_patient:
                await self._wait_for_release(lacking)
            else:
                raise CapacityError(f"no room on the device ({', '.join(lacking)}): all of it is in use")

    async def _wait_for_release(self, lacking: list[str]) -> None:
        """Where requests for the tasks that are there never let go of them, one of them is to leave."""
        self._is_full = True
        try:
            await asyncio.wait_for(self._released.wait(), _PATIENCE_SECONDS)
        except TimeoutError:
            held = (one for one in self._entries.values() if one.handle and not one.is_pinned)
            leaving = next((one for one in held if _would_help(one, lacking)), None)
            if leaving is not None:
                leaving.leaves = True
        finally:
            self._is_full = False

    async def _evict(self, entry: _Entry) -> None:
        assert entry.handle is not None
        del self._entries[entry.handle.digest]  # whoever asks from now on brings it back
        entry.gone.set()
        await self._workers.unload(entry.handle.digest, entry.token)
        self._free += entry.room

    def _pinned_room(self, but_of: str = "") -> Room:
        """What pinned tasks have of the device, but for those of one name."""
        pinned = (one for one in self._entries.values() if one.is_pinned and one.handle)
        return sum((one.room for one in pinned if one.bundle.name != but_of), Room())

    def _check_base(self, bundle: Bundle) -> None:
        wanted = bundle.manifest.base_model
        if wanted is None:
            return
        for name in ("architecture", "fingerprint"):
            expected, came = getattr(self.base, name), getattr(wanted, name)
            if expected != came:
                raise BaseModelMismatchError(
                    bundle.name, field=f"base_model.{name}", expected=expected, came=came
                )


def _may_leave(entry: _Entry, lacking: list[str]) -> bool:
    """Whether it is free to go, and its going would help."""
    is_idle = entry.handle is not None and entry.holds == 0 and not entry.is_pinned
    return is_idle and _would_help(entry, lacking)


def _would_help(entry: _Entry, lacking: list[str]) -> bool:
    return any(getattr(entry.room, name) for name in lacking)


def _note_outcome(bringing: asyncio.Task[None]) -> None:
    """Reads the error of a load that nobody waits for any more, so that asyncio does not complain of it."""
    if not bringing.cancelled():
        bringing.exception()


def _make_handle(bundle: Bundle, slot: int) -> TaskHandle:
    manifest = bundle.manifest
    delta = bundle.frame_delta
    frame = None
    if manifest.frame is not None and delta is not None:
        frame = TaskFrame(spec=manifest.frame, delta=delta)
    vision = manifest.vision
    return TaskHandle(
        name=bundle.name,
        digest=bundle.digest,
        slot=slot,
        text_length=manifest.prompt_length,
        vision_length=vision.length if vision else 0,
        vision_mode=vision.mode if vision else None,
        has_projector=manifest.projector,
        has_lm_head=manifest.lm_head,
        frame=frame,
    )
