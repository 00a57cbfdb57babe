"""What the front end asks of the workers; the other side of `worker.py`.

Works on anything with vLLM 0.32's `collective_rpc` coroutine: `AsyncLLM`, or `offline.LocalEngine` around
`LLM`. vLLM brings every call to every worker in one order, so that all of them give a digest the same slot.
"""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any, Protocol

from prompts.errors import CapacityError, EngineError, NotStagedError, PassepartoutError, StaleBundleError
from prompts.faults import shown
from server.engine.facts import EngineFacts

__all__ = ["WorkerCalls", "Workers"]

_BY_CODE: dict[str, type[PassepartoutError]] = {
    one.code: one for one in (CapacityError, EngineError, NotStagedError, StaleBundleError)
}
_READ_SECONDS = 60.0
_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.002, 0.05


class WorkerCalls(Protocol):
    """The one thing asked of vLLM's engine client."""

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> list[Any]:
        """Calls `method` in every worker; returns each worker's answer."""
        raise NotImplementedError


class Workers:
    """All workers of one engine, as one."""

    def __init__(self, engine: WorkerCalls) -> None:
        self._engine = engine

    async def facts(self) -> EngineFacts:
        """Shapes and room.

        Raises:
            EngineError: the engine does not run our plugin and worker extension.
        """
        return EngineFacts.from_plain(_same("passepartout_facts", await self._ask("passepartout_facts")))

    async def stage(self, path: Path, digest: str) -> bool:
        """Has the bundle at `path` read into host memory; True where none had to read a file.

        Raises:
            StaleBundleError: a worker cannot read it, or finds another digest.
            EngineError: it does not fit, a worker failed, or reading takes longer than a minute.
        """
        seconds, seen = _FIRST_LOOK_SECONDS, set()
        deadline = time.monotonic() + _READ_SECONDS
        while "reading" in (places := await self._ask("passepartout_stage", str(path), digest)):
            seen.update(places)
            if time.monotonic() > deadline:
                raise EngineError(f"{path} is not read within {_READ_SECONDS:.0f} seconds")
            await asyncio.sleep(seconds)
            seconds = min(1.5 * seconds, _LONGEST_LOOK_SECONDS)
        return not seen.union(places) & {"reading", "store"}

    async def load(self, digest: str, token: str) -> int:
        """Brings what is staged to the device; returns its slot. All workers take it, or none keeps it.

        `token`: a name of this load alone, which undoes it.

        Raises:
            CapacityError: no room.
            NotStagedError: another front end had it dropped from host memory: stage it again.
            EngineError: a worker failed.
        """
        try:
            slot: int = _same("passepartout_load", await self._ask("passepartout_load", digest, token))
        except PassepartoutError:
            with contextlib.suppress(EngineError):  # an engine that is dead holds nothing
                await self.unload(digest, token)
            raise
        return slot

    async def unload(self, digest: str, token: str) -> None:
        """Undoes that load where there was one.

        Raises:
            EngineError: a worker failed.
        """
        await self._ask("passepartout_unload", digest, token)

    async def forget(self, digest: str) -> None:
        """Drops the bundle from host memory."""
        await self._ask("passepartout_forget", digest)

    async def _ask(self, method: str, *args: object) -> list[Any]:
        return [_read(answer) for answer in await self._tell(method, *args)]

    async def _tell(self, method: str, *args: object) -> list[Any]:
        """Each worker's answer: `{"ok": …}`, or `{"code", "message"}` where it refuses."""
        try:
            return await self._engine.collective_rpc(method, args=args)
        except Exception as error:  # vLLM raises a plain Exception for whatever went wrong in a worker
            raise EngineError(f"{method}: the engine failed: {error}") from error


def _read(answer: dict[str, Any]) -> Any:
    if "ok" not in answer:
        raise _BY_CODE.get(answer["code"], EngineError)(answer["message"])
    return answer["ok"]


def _same(method: str, answers: list[Any]) -> Any:
    if any(answer != answers[0] for answer in answers):
        raise EngineError(f"{method}: the workers disagree: {shown(answers)}")
    return answers[0]
