"""What one API server process knows: its tasks, its metrics, the names of its base model."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry

from prompts.picture import MAX_PIXELS
from server.access.access import Access
from server.metrics import TaskMetrics
from server.observe.spans import Tracing
from server.outside.fetch import Fetcher
from server.served import Loader
from server.sources import FollowedSource
from server.tasks import TaskRegistry

__all__ = ["Service"]


async def _no_engine() -> bool:
    return False


async def _no_look() -> None:
    """There is no store yet."""


@dataclass
class Service:
    """Made when routes are attached, filled once the engine is up.

    `base_names`: served names of the base model, the first of them the one that answers carry.
    `access`: who may ask; `fetcher`: gets pictures named by address, of the `max_pictures` of a request.
    `engine_is_healthy`: asks the engine; False before there is one. `store`: the folder that is served, and
    `source`: where it comes from; `loader` brings its tasks to the device; `look` brings the tasks to what it
    holds now, under `looking`. `tracing`: where spans go; `has_access_log`: whether requests have a line in
    the log, but for those of `quiet_routes`.
    """

    registry: CollectorRegistry = field(default_factory=lambda: REGISTRY)
    base_names: tuple[str, ...] = ()
    max_picture_pixels: int = MAX_PIXELS
    local_files: bool = False
    max_pictures: int = 32
    fetcher: Fetcher = field(default_factory=Fetcher)
    tasks: TaskRegistry = field(default_factory=TaskRegistry)
    access: Access = field(default_factory=Access)
    tracing: Tracing = field(default_factory=Tracing)
    has_access_log: bool = True
    quiet_routes: frozenset[str] = frozenset()
    engine_is_healthy: Callable[[], Awaitable[bool]] = _no_engine
    store: Path | None = None
    source: FollowedSource | None = None
    loader: Loader | None = None
    look: Callable[[], Awaitable[None]] = _no_look
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    metrics: TaskMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = TaskMetrics(self.tasks.was_served, self.registry)
        self.watch_queue()

    def watch_queue(self) -> None:
        """Have the gate report how many requests are under way; to be called again for another gate."""
        gate = self.access.gate
        gate.changed = lambda: self.metrics.queue(under_way=gate.under_way, waiting=gate.waiting)

    def publish(self) -> None:
        """Bring the gauges up to what the registry holds."""
        served = {
            name: {one.digest: one.loader.is_on_device(one.digest) for one, _ in self.tasks.serving(name)}
            for name in self.tasks.named()
        }
        self.metrics.store(served, faulty=len(self.tasks.faults))
