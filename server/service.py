"""What one API server process knows: its tasks, its metrics, the names of its base model."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry

from prompts.picture import MAX_PIXELS
from server.access.access import Access
from server.metrics import TaskMetrics
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
    holds now, under `looking`.
    """

    registry: CollectorRegistry = field(default_factory=lambda: REGISTRY)
    base_names: tuple[str, ...] = ()
    max_picture_pixels: int = MAX_PIXELS
    local_files: bool = False
    max_pictures: int = 32
    fetcher: Fetcher = field(default_factory=Fetcher)
    tasks: TaskRegistry = field(default_factory=TaskRegistry)
    access: Access = field(default_factory=Access)
    engine_is_healthy: Callable[[], Awaitable[bool]] = _no_engine
    store: Path | None = None
    source: FollowedSource | None = None
    loader: Loader | None = None
    look: Callable[[], Awaitable[None]] = _no_look
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    metrics: TaskMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = TaskMetrics(self.tasks.was_served, self.registry)

    def publish(self) -> None:
        """Bring the gauges up to what the registry holds."""
        served = list(self.tasks.tasks.values())
        self.metrics.store(
            served=[(task.name, task.digest) for task in served],
            on_device=sum(task.loader.is_on_device(task.digest) for task in served),
            faulty=len(self.tasks.faults),
        )
