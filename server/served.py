"""A task that requests may name, and what knows of the device it is brought to."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from prompts.bundle import Bundle
from prompts.errors import BundleError, EngineError, StaleBundleError, TaskNotFoundError
from server.canary_result import CanaryResult
from server.engine.handles import TaskHandle
from server.log import logger

__all__ = ["Loader", "ServedTask"]


class Loader(Protocol):
    """What knows of the device: `server.engine.residency.Residency`, or a small fake in tests."""

    def check(self, bundle: Bundle) -> None:
        """Raise what keeps the bundle out of this engine for good."""
        raise NotImplementedError

    def using(
        self, bundle: Bundle, *, is_held: bool = False, is_patient: bool = True
    ) -> AbstractAsyncContextManager[TaskHandle]:
        """Hold the bundle on the device while this is open; entering waits until it is there.

        `is_held`: the request holds it already, and must not wait for itself. Not `is_patient`: a
        CapacityError where it would have to wait for room.
        """
        raise NotImplementedError

    def is_on_device(self, digest: str) -> bool:
        """Whether holding that digest would wait for nothing."""
        raise NotImplementedError

    def is_pinned(self, bundle: Bundle) -> bool:
        """Whether it is to be on the device all the time."""
        raise NotImplementedError

    def has_room(self, bundle: Bundle) -> bool:
        """Whether it could come to the device and no other would have to leave."""
        raise NotImplementedError

    def is_unproven(self, bundle: Bundle) -> bool:
        """Whether it has a canary that is still to be asked before it may take the place of another."""
        raise NotImplementedError

    def unpin(self, digest: str) -> None:
        """No pinned name means it any more."""
        raise NotImplementedError

    async def discard(self, digest: str) -> None:
        """Take it off the device and out of host memory."""
        raise NotImplementedError

    def canary_result(self, bundle: Bundle) -> CanaryResult:
        """What became of the bundle's canary."""
        raise NotImplementedError


@dataclass(eq=False)
class ServedTask:
    """A task that requests may name. `bundle` may be exchanged for one of the same digest."""

    bundle: Bundle
    loader: Loader
    leases: int = 0
    is_drained: bool = False
    faults: list[str] = field(default_factory=list)
    """Why it is to be served no more, found when it came to the device."""

    @property
    def name(self) -> str:
        """The name requests use."""
        return self.bundle.name

    @property
    def digest(self) -> str:
        """What serves, in 64 hexadecimal digits."""
        return self.bundle.digest

    @property
    def needs_picture(self) -> bool:
        """Whether a request without a picture would be answered by the base model alone."""
        return self.bundle.manifest.prompt_length == 0

    @asynccontextmanager
    async def hold(self, *, is_held: bool = False) -> AsyncIterator[TaskHandle]:
        """Keeps the task on the device while this is open; entering waits until it is there.

        `is_held`: for a request that holds it already, but may let go before this is over.

        Raises:
            TaskNotFoundError: it was drained; a request that goes on behind its HTTP answer may come so late.
            StaleBundleError: its folder holds another bundle; the next look at the store will see to it.
            EngineError: the workers failed, or the engine does not serve it as it was trained.
        """
        if self.is_drained:
            raise TaskNotFoundError(self.name, ())
        self.leases += 1
        try:
            async with AsyncExitStack() as stack:
                yield await self._bring(stack, is_held=is_held)
        finally:
            self.leases -= 1

    async def _bring(self, stack: AsyncExitStack, *, is_held: bool) -> TaskHandle:
        """What went wrong is told to clients in our words: the engine's name paths and objects."""
        try:
            if self.faults:
                raise EngineError(self.faults[0])
            return await stack.enter_async_context(self.loader.using(self.bundle, is_held=is_held))
        except StaleBundleError as error:
            logger.info("task %s: %s", self.name, error)
            raise StaleBundleError(f"task {self.name}: its bundle is being exchanged, ask again") from error
        except BundleError as error:
            self.faults = list(error.faults)
            cause: Exception = error
        except EngineError as error:
            cause = error
        logger.error("task %s: %s", self.name, cause)
        raise EngineError(f"task {self.name} cannot be served now; the server's log says why") from cause
