"""The tasks this server answers for: a bundle of the store, resident in every worker, under its name.

`TaskRegistry.reconcile` brings them to what the store holds. A bundle that appears is loaded; one that
changes is loaded beside the old one, then the name is turned to it; one that goes is taken off its name. What
lost its name is drained: it leaves the workers when the last request that leased it has ended, so that a
request finishes on the digest it began with. A bundle that cannot be served is kept with its faults, for the
log and for `/ready`; a new name stays unknown, it is never answered by the base model, and a name that is
served already goes on with what it has.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from prompts.bundle import Bundle
from prompts.errors import BundleError, CapacityError, EngineError, PassepartoutError, TaskNotFoundError
from prompts.store import StoreScan, entry_name
from server.engine.handles import TaskHandle
from server.log import logger

__all__ = ["DRAIN_GRACE_SECONDS", "Loader", "ResidentTask", "TaskRegistry"]

DRAIN_GRACE_SECONDS = 0.5
"""Between a drained task's last request and its unloading: time for what vLLM has still to start or abort."""
_LOOK_SECONDS = 0.05
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0


class Loader(Protocol):
    """What makes a bundle resident: `server.engine.residency.Residency`, or a small fake in tests."""

    async def load(self, bundle: Bundle) -> TaskHandle:
        """Return once every worker holds the bundle."""
        raise NotImplementedError

    async def unload(self, handle: TaskHandle) -> None:
        """Undo one load."""
        raise NotImplementedError


@dataclass(eq=False)
class ResidentTask:
    """A task that requests may name. `bundle` may be exchanged for one of the same digest."""

    bundle: Bundle
    handle: TaskHandle
    leases: int = 0
    is_unloaded: bool = False

    @property
    def name(self) -> str:
        """The name requests use."""
        return self.bundle.name

    @property
    def digest(self) -> str:
        """What served, in 64 hexadecimal digits."""
        return self.handle.digest

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keeps the task in the workers for as long as this is open.

        Raises:
            TaskNotFoundError: it has left them already; a request that goes on behind its HTTP answer comes
                here so late.
        """
        if self.is_unloaded:
            raise TaskNotFoundError(self.name, ())
        self.leases += 1
        try:
            yield
        finally:
            self.leases -= 1


@dataclass(frozen=True)
class _Refusal:
    """Why a bundle is not served. `retry_at`: monotonic seconds; infinite where only another bundle helps."""

    bundle: Bundle
    faults: list[str]
    seconds: float = math.inf
    retry_at: float = math.inf


@dataclass
class TaskRegistry:
    """Names to resident tasks, and the bundles that were refused.

    `faults`: folder name in the store -> each fault as a sentence.
    """

    tasks: dict[str, ResidentTask] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    loaded: bool = False
    drain_grace_seconds: float = DRAIN_GRACE_SECONDS
    _known: set[str] = field(default_factory=set)
    _missing: set[str] = field(default_factory=set)
    _refused: dict[str, _Refusal] = field(default_factory=dict)
    _draining: set[asyncio.Task[None]] = field(default_factory=set)

    async def reconcile(self, scan: StoreScan, loader: Loader) -> None:
        """Bring the tasks to what `scan` found; returns when new ones are resident, drains go on behind."""
        faults = {entry: list(error.faults) for entry, error in scan.faults.items()}
        self._drop_gone(scan, loader)
        self._refused = {name: one for name, one in self._refused.items() if name in scan.bundles}
        for bundle in scan.bundles.values():
            if found := await self._serve(bundle, loader):
                faults[_entry(bundle)] = found
        self._note(faults)
        if not self.loaded:
            names = ", ".join(sorted(self.tasks)) or "none"
            logger.info("%d tasks are resident: %s", len(self.tasks), names)
        self.loaded = True

    def find(self, name: str) -> ResidentTask:
        """Return the task of that name.

        Raises:
            TaskNotFoundError: nothing of that name is resident.
        """
        task = self.tasks.get(name)
        if task is None:
            raise TaskNotFoundError(name, self.tasks)
        return task

    def digests(self) -> Mapping[str, str]:
        """Name -> digest of what is resident."""
        return {name: task.digest for name, task in self.tasks.items()}

    def was_served(self, name: str) -> bool:
        """Whether a task of that name is resident, or was."""
        return name in self._known

    async def drained(self) -> None:
        """Return when nothing is being drained any more."""
        while self._draining:
            await asyncio.wait(self._draining)

    def _drop_gone(self, scan: StoreScan, loader: Loader) -> None:
        """A name goes with its bundle; one whose bundle has become faulty stays as it is.

        Only what two scans in a row did not find is gone: replacing a folder takes two renames, and a scan
        may fall between them.
        """
        missing = {
            name
            for name, task in self.tasks.items()
            if name not in scan.bundles and _entry(task.bundle) not in scan.faults
        }
        for name in missing & self._missing:
            logger.info("task %s is gone from the store", name)
            self._retire(self.tasks.pop(name), loader)
        self._missing = missing - self._missing

    async def _serve(self, bundle: Bundle, loader: Loader) -> list[str]:
        """Has the bundle's name answered by this bundle; returns the faults that keep it from that."""
        current = self.tasks.get(bundle.name)
        if current is not None and current.digest == bundle.digest:
            current.bundle = bundle
            return []
        before = self._refused.get(bundle.name)
        if before is not None and before.bundle is bundle and time.monotonic() < before.retry_at:
            return before.faults
        try:
            await self._load(bundle, loader)
        except PassepartoutError as error:
            refusal = _refusal(bundle, error, before)
            self._refused[bundle.name] = refusal
            return refusal.faults
        self._refused.pop(bundle.name, None)
        if current is not None:
            self._retire(current, loader)
        return []

    async def _load(self, bundle: Bundle, loader: Loader) -> None:
        handle = await loader.load(bundle)
        self._known.add(bundle.name)
        self.tasks[bundle.name] = ResidentTask(bundle, handle)
        logger.info("task %s is resident (digest %s)", bundle.name, bundle.digest)

    def _retire(self, task: ResidentTask, loader: Loader) -> None:
        drain = asyncio.create_task(self._drain(task, loader))
        self._draining.add(drain)
        drain.add_done_callback(self._draining.discard)

    async def _drain(self, task: ResidentTask, loader: Loader) -> None:
        """Unloads what has no name any more, after its last request; then there is room for the refused."""
        await asyncio.sleep(self.drain_grace_seconds)
        while task.leases:
            while task.leases:
                await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.sleep(self.drain_grace_seconds)
        task.is_unloaded = True
        try:
            await loader.unload(task.handle)
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


def _entry(bundle: Bundle) -> str:
    return entry_name(bundle.path) if bundle.path is not None else bundle.name
