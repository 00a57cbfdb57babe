"""The tasks this server answers for: the good bundles of the store, each under its name.

`TaskRegistry.reconcile` brings them to what the store holds. A bundle that appears gets its name; one that
changes is brought to the device beside the old one, then the name is turned to it; one that goes loses its
name. What lost its name is drained: it leaves the workers when the last request that held it has ended, so
that a request finishes on the digest it began with. A bundle that cannot be served is kept with its faults,
for the log and for `/ready`; a new name stays unknown, it is never answered by the base model, and a name
that is served already goes on with what it has.

Names are independent: each has its own warm-up under way, a few at a time, and a slow one keeps no other name
from being served, exchanged or drained.

Which of the tasks are on the device is `Residency`'s affair (`server/engine/residency.py`).
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prompts.bundle import Bundle
from prompts.errors import BundleError, CapacityError, EngineError, PassepartoutError, TaskNotFoundError
from prompts.routing import Share, pick_share
from prompts.store import StoreScan, entry_name
from prompts.versions import slots_of, task_of
from server.log import logger
from server.served import Loader, ServedTask

__all__ = ["DRAIN_GRACE_SECONDS", "TaskRegistry"]

DRAIN_GRACE_SECONDS = 0.5
"""Between a drained task's last request and its unloading: time for what vLLM has still to start."""
_LOOK_SECONDS = 0.05
_SETTLE_SECONDS = 1.0
"""A look at the store waits that long for what it began; what takes longer goes on behind."""
_WARM_UPS = 4
"""Bundles that are brought to the device at a time; while one is asked its canary it has room there."""
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class _Refusal:
    """Why a bundle is not served. `retry_at`: monotonic seconds; infinite where only another bundle helps."""

    bundle: Bundle
    faults: list[str]
    seconds: float = math.inf
    retry_at: float = math.inf


@dataclass(frozen=True)
class _Job:
    """A bundle on its way to its name. `ended` gives the faults that keep it from that."""

    bundle: Bundle
    ended: asyncio.Task[list[str]]


@dataclass
class TaskRegistry:
    """Names to tasks, and the bundles that were refused.

    `tasks`: slot -> what serves there; a slot is a task's name, or `name@digest` for a version that serves
    beside the first (`prompts.versions`). `versions`, `shares`: as the store was found last. `faults`: folder
    name in the store -> each fault as a sentence.
    """

    tasks: dict[str, ServedTask] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    versions: Mapping[str, Sequence[Bundle]] = field(default_factory=dict)
    shares: Mapping[str, tuple[Share, ...]] = field(default_factory=dict)
    loaded: bool = False
    drain_grace_seconds: float = DRAIN_GRACE_SECONDS
    _known: set[str] = field(default_factory=set)
    _missing: set[str] = field(default_factory=set)
    _refused: dict[str, _Refusal] = field(default_factory=dict)
    _jobs: dict[str, _Job] = field(default_factory=dict)
    """By name; one that ended is taken out by the next look at the latest."""
    _warming: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WARM_UPS))
    _draining: set[asyncio.Task[None]] = field(default_factory=set)
    _next_look: asyncio.Event = field(default_factory=asyncio.Event)

    async def reconcile(self, scan: StoreScan, loader: Loader) -> None:
        """Bring the tasks to what `scan` found; drains go on behind, and so does what is slow to come.

        The first time it waits for all of them.
        """
        self._rearrange(scan, loader)
        self.versions, self.shares = scan.versions, scan.shares
        self._drop_gone(scan, loader)
        self._refused = {name: one for name, one in self._refused.items() if name in scan.bundles}
        self._end_jobs(scan)
        wanted = scan.bundles.items()
        begun = [self._begin(*one, loader) for one in wanted if not self._settle_at_once(*one, loader)]
        if begun:
            await asyncio.wait(begun, timeout=_SETTLE_SECONDS if self.loaded else None)
        faults = {entry: list(error.faults) for entry, error in scan.faults.items()}
        faults |= {_entry(one): found for slot, one in wanted if (found := self._faults_of(slot, one))}
        self._note(faults)
        if not self.loaded:
            names = ", ".join(sorted(self.named())) or "none"
            logger.info("%d tasks are served: %s", len(self.named()), names)
        self.loaded = True
        self._next_look.set()
        self._next_look = asyncio.Event()

    async def next_look(self) -> None:
        """Return when the store has been looked at once more."""
        await self._next_look.wait()

    def find(self, name: str, sticky: str = "") -> ServedTask:
        """Return the task of that name; of several versions that serve, the one that `sticky` falls to.

        Only versions that are up take part. Where none is, what served before goes on.

        Raises:
            TaskNotFoundError: nothing of that name is served.
        """
        up = self._up(name)
        if len(up) > 1:
            picked = pick_share(name, [share for share, _ in up], sticky)
            return next(one for share, one in up if share is picked)
        task = up[0][1] if up else self._first(name)
        if task is None:
            raise TaskNotFoundError(name, self.named())
        return task

    def named(self) -> dict[str, ServedTask]:
        """Name -> what serves it; of several versions the first."""
        names: dict[str, ServedTask] = {}
        for slot, task in sorted(self.tasks.items()):
            if self.shares.get(task_of(slot)) != ():
                names.setdefault(task_of(slot), task)
        return names

    def serving(self, name: str) -> list[tuple[ServedTask, int]]:
        """Each version that serves that name, with its weight."""
        found = [(one, share.weight) for share, one in self._up(name)]
        if not found and (first := self._first(name)) is not None:
            found = [(first, 1)]
        return found

    def digests(self) -> Mapping[str, str]:
        """Name -> digest of what is served; of several versions the first."""
        return {name: task.digest for name, task in self.named().items()}

    def was_served(self, name: str) -> bool:
        """Whether a task of that name is served, or was."""
        return name in self._known

    async def drained(self) -> None:
        """Return when nothing is being drained any more."""
        while self._draining:
            await asyncio.wait(self._draining)

    def _up(self, name: str) -> list[tuple[Share, ServedTask]]:
        """Each version that is to serve that name and is there."""
        return [
            (share, one)
            for slot, share in slots_of(name, self.shares.get(name, ()))
            if (one := self.tasks.get(slot)) is not None and one.digest == share.digest
        ]

    def _first(self, name: str) -> ServedTask | None:
        """What answers where no version that is to serve is up: what served before."""
        return self.tasks.get(name) or self.named().get(name) if self.shares.get(name) != () else None

    def _drop_gone(self, scan: StoreScan, loader: Loader) -> None:
        """A name goes with its bundle; one whose bundle has become faulty stays as it is.

        Only what two scans in a row did not find is gone: replacing a folder takes two renames, and a scan
        may fall between them.
        """
        missing = {
            slot
            for slot, task in self.tasks.items()
            if slot not in scan.bundles
            and task_of(slot) not in scan.undecided
            and _entry(task.bundle) not in scan.faults
        }
        gone = missing & self._missing
        for slot in gone | {slot for slot, task in self.tasks.items() if _is_dismissed(slot, task, scan)}:
            logger.info("task %s is gone from the store", slot)
            self._retire(self.tasks.pop(slot), loader)
        self._missing = missing - gone

    def _rearrange(self, scan: StoreScan, loader: Loader) -> None:
        """A version that served beside another and is now the first, or the reverse, keeps its place."""
        for name in {task_of(slot) for slot in self.tasks if slot not in scan.bundles} & scan.shares.keys():
            slots = [slot for slot in self.tasks if task_of(slot) == name]
            held = {self.tasks[slot].digest: slot for slot in slots}
            moves = {
                held[share.digest]: slot
                for slot, share in slots_of(name, scan.shares[name])
                if share.digest in held
            }
            if any(one != other for one, other in moves.items()):
                moved = {to: self.tasks[slot] for slot, to in moves.items()}
                for slot in slots:
                    task = self.tasks.pop(slot)
                    if slot not in moves:
                        self._retire(task, loader)
                self.tasks |= moved

    def _end_jobs(self, scan: StoreScan) -> None:
        """Forgets what ended since the last look, and gives up what the store holds no more."""
        for name, job in list(self._jobs.items()):
            if job.ended.done():
                del self._jobs[name]
                job.ended.result()
            elif scan.bundles.get(name) is not job.bundle:
                del self._jobs[name]
                job.ended.cancel()

    def _settle_at_once(self, slot: str, bundle: Bundle, loader: Loader) -> bool:
        """Whether there is nothing to begin: it is served by now, refused for now, or on its way."""
        if slot in self._jobs:
            return True
        current = self.tasks.get(slot)
        if current is not None and current.digest == bundle.digest:
            if not current.faults:
                current.bundle = bundle
                return True
            self._retire(self.tasks.pop(slot), loader)
            self._refused[slot] = _Refusal(bundle, current.faults)
        refused = self._refused.get(slot)
        return refused is not None and refused.bundle is bundle and time.monotonic() < refused.retry_at

    def _begin(self, slot: str, bundle: Bundle, loader: Loader) -> asyncio.Task[list[str]]:
        job = _Job(bundle, asyncio.create_task(self._serve(slot, bundle, loader)))
        self._jobs[slot] = job
        return job.ended

    def _faults_of(self, slot: str, bundle: Bundle) -> list[str]:
        """Why it is not served; while it is tried again, why it was not before."""
        job = self._jobs.get(slot)
        if job is not None and not job.ended.done():
            return self.faults.get(_entry(bundle), [])
        if job is not None:
            del self._jobs[slot]
            return job.ended.result()
        refused = self._refused.get(slot)
        return refused.faults if refused is not None and refused.bundle is bundle else []

    async def _serve(self, slot: str, bundle: Bundle, loader: Loader) -> list[str]:
        """Has the bundle's name answered by this bundle; returns the faults that keep it from that."""
        before = self._refused.get(slot)
        try:
            loader.check(bundle)
            await self._warm(slot, bundle, loader)
        except PassepartoutError as error:
            refusal = _refusal(bundle, error, before)
            self._refused[slot] = refusal
            return refusal.faults
        self._refused.pop(slot, None)
        self._known.add(bundle.name)
        current = self.tasks.get(slot)
        self.tasks[slot] = ServedTask(bundle, loader)
        logger.info("task %s is served (digest %s)", bundle.name, bundle.digest)
        if current is not None:
            self._retire(current, loader)
        return []

    async def _warm(self, slot: str, bundle: Bundle, loader: Loader) -> None:
        """Brings a bundle to the device before requests ask for it, where no other has to leave for it.

        So too in the place of a task that is there, and where the operator pinned it. Unproven it does not
        take the place of one that works, be that there or not: it waits for room as a request does.
        """
        if not self._is_to_warm(slot, bundle, loader):
            return
        async with self._warming:
            if not self._is_to_warm(slot, bundle, loader):  # others had the room meanwhile
                return
            must_pass = self._must_pass(bundle, loader)
            try:
                async with loader.using(bundle, is_patient=must_pass):
                    pass
            except CapacityError:
                if must_pass:
                    raise

    def _is_to_warm(self, slot: str, bundle: Bundle, loader: Loader) -> bool:
        current = self.tasks.get(slot)
        is_there = current is not None and loader.is_on_device(current.digest)
        is_wanted = is_there or loader.is_pinned(bundle) or self._must_pass(bundle, loader)
        return is_wanted or loader.has_room(bundle)

    def _must_pass(self, bundle: Bundle, loader: Loader) -> bool:
        return bundle.name in self.tasks and loader.is_unproven(bundle)

    def _retire(self, task: ServedTask, loader: Loader) -> None:
        loader.unpin(task.digest)
        drain = asyncio.create_task(self._drain(task, loader))
        self._draining.add(drain)
        drain.add_done_callback(self._draining.discard)

    async def _drain(self, task: ServedTask, loader: Loader) -> None:
        """Discards what has no name any more, after its last request; then there is room for the refused."""
        await asyncio.sleep(self.drain_grace_seconds)
        while task.leases:
            while task.leases:
                await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.sleep(self.drain_grace_seconds)
        task.is_drained = True
        try:
            if all(task.digest != one.digest for one in self.tasks.values()):
                await loader.discard(task.digest)
        except EngineError as error:
            logger.error("task %s (digest %s) is not unloaded: %s", task.name, task.digest, error)
        else:
            logger.info("task %s (digest %s) is drained", task.name, task.digest)
        self._refused.clear()

    def _note(self, faults: dict[str, list[str]]) -> None:
        """Keeps the faults; what was not known before goes to the log."""
        for entry, found in faults.items():
            if self.faults.get(entry) != found:
                for one in found:
                    logger.error("bundle %s is refused: %s", entry, one)
        if faults and not self.loaded:
            logger.warning("%d bundles are refused, see above and GET /ready", len(faults))
        for entry in self.faults.keys() - faults.keys():
            logger.info("bundle %s is not refused any more", entry)
        self.faults = faults


def _refusal(bundle: Bundle, error: PassepartoutError, before: _Refusal | None) -> _Refusal:
    """What the engine or a full bank refused may go later: it is tried again, less and less often."""
    if not isinstance(error, CapacityError | EngineError):
        faults = list(error.faults) if isinstance(error, BundleError) else [str(error)]
        return _Refusal(bundle, faults)
    faults = [str(error)]
    if isinstance(error, EngineError):  # its words are the engine's: for the log, not for clients
        logger.error("task %s: %s", bundle.name, error)
        faults = ["the engine failed to load it; the server's log says how"]
    seconds = _FIRST_RETRY_SECONDS
    if before is not None and before.bundle is bundle:
        seconds = min(2 * before.seconds, _LONGEST_RETRY_SECONDS)
    return _Refusal(bundle, faults, seconds, time.monotonic() + seconds)


def _is_dismissed(slot: str, task: ServedTask, scan: StoreScan) -> bool:
    """Whether the store says in as many words that this one is to serve no more: no second look is needed."""
    shares = scan.shares.get(task_of(slot))
    if shares is None or slot in scan.bundles:
        return False
    return task.digest not in {one.digest for one in shares}


def _entry(bundle: Bundle) -> str:
    return entry_name(bundle.path) if bundle.path is not None else bundle.name
