"""What one API server process knows: its tasks, its metrics, the names of its base model."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import REGISTRY, CollectorRegistry

from prompts.picture import MAX_PIXELS
from server.access.access import Access
from server.metrics import TaskMetrics
from server.observe.spans import Tracing
from server.outside.fetch import Fetcher
from server.tasks import TaskRegistry

__all__ = ["Service"]


async def _no_engine() -> bool:
    return False


@dataclass
class Service:
    """Made when routes are attached, filled once the engine is up.

    `base_names`: served names of the base model, the first of them the one that answers carry.
    `access`: who may ask; `fetcher`: gets pictures named by address, of the `max_pictures` of a request.
    `engine_is_healthy`: asks the engine; False before there is one. `tracing`: where spans go;
    `has_access_log`: whether requests have a line in the log, but for those of `quiet_routes`.
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
        served = self.tasks.tasks.values()
        self.metrics.store(
            served=dict(self.tasks.digests()),
            on_device=sum(task.loader.is_on_device(task.digest) for task in served),
            faulty=len(self.tasks.faults),
        )
        self.metrics.residency({task.name: task.loader.is_on_device(task.digest) for task in served})
