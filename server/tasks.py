"""The tasks this server answers for: a bundle of the store, resident in every worker, under its name.

`TaskRegistry.load_store` tries every bundle of the folder. What loads is served; what does not is kept with
its faults, for the log and for `/ready`, and its name stays unknown: it is never answered by the base model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prompts.bundle import Bundle
from prompts.errors import BundleError, EngineError, PassepartoutError, TaskNotFoundError
from prompts.store import scan_store
from server.engine.handles import TaskHandle
from server.log import logger

__all__ = ["Loader", "ResidentTask", "TaskRegistry"]


class Loader(Protocol):
    """What makes a bundle resident: `server.engine.residency.Residency`, or a small fake in tests."""

    async def load(self, bundle: Bundle) -> TaskHandle:
        """Return once every worker holds the bundle."""
        raise NotImplementedError


@dataclass(frozen=True)
class ResidentTask:
    """A task that requests may name."""

    bundle: Bundle
    handle: TaskHandle

    @property
    def name(self) -> str:
        """The name requests use."""
        return self.bundle.name

    @property
    def digest(self) -> str:
        """What served, in 64 hexadecimal digits."""
        return self.bundle.digest


@dataclass
class TaskRegistry:
    """Names to resident tasks, and the bundles that were refused.

    `faults`: folder name in the store -> each fault as a sentence.
    """

    tasks: dict[str, ResidentTask] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    loaded: bool = False

    async def load_store(self, folder: Path, loader: Loader) -> None:
        """Load every good bundle of `folder`; note the faults of the others.

        Raises:
            StoreError: the folder itself cannot be read.
        """
        scan = scan_store(folder)
        for entry, error in scan.faults.items():
            self._refuse(entry, error.faults)
        for bundle in scan.bundles.values():
            await self._load(bundle, loader)
        self.loaded = True
        logger.info("%d tasks are resident: %s", len(self.tasks), ", ".join(sorted(self.tasks)) or "none")
        if self.faults:
            logger.warning("%d bundles are refused, see above and GET /ready", len(self.faults))

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

    async def _load(self, bundle: Bundle, loader: Loader) -> None:
        try:
            handle = await loader.load(bundle)
        except BundleError as error:
            self._refuse(_entry(bundle), error.faults)
        except EngineError as error:  # its words are the engine's: for the log, not for clients
            logger.error("task %s: %s", bundle.name, error)
            self._refuse(_entry(bundle), ["the engine failed to load it; the server's log says how"])
        except PassepartoutError as error:
            self._refuse(_entry(bundle), [str(error)])
        else:
            self.tasks[bundle.name] = ResidentTask(bundle, handle)
            logger.info("task %s is resident (digest %s)", bundle.name, bundle.digest)

    def _refuse(self, entry: str, faults: list[str]) -> None:
        self.faults[entry] = list(faults)
        for one in faults:
            logger.error("bundle %s is refused: %s", entry, one)


def _entry(bundle: Bundle) -> str:
    return bundle.path.name if bundle.path is not None else bundle.name
