"""The front end's half of loading tasks: checks a bundle against the engine, has every worker load it.

Works on anything with vLLM 0.32's `collective_rpc` coroutine: `AsyncLLM`, or `offline.LocalEngine` around
`LLM`. The workers own the banks and hand out rows and slots (`worker.py`); they must all say the same.
"""

import asyncio
from pathlib import Path
from typing import Any, Protocol, Self

from prompts.bundle import Bundle
from prompts.errors import (
    BaseModelMismatchError,
    BundleError,
    CapacityError,
    ConfigError,
    EngineError,
    PassepartoutError,
)
from prompts.faults import fault, shown
from prompts.fingerprint import base_model_ref
from prompts.manifest import BaseModelRef
from server.engine.facts import EngineFacts, find_misfits
from server.engine.handles import TaskFrame, TaskHandle

__all__ = ["Residency", "WorkerCalls"]

_BY_CODE: dict[str, type[PassepartoutError]] = {one.code: one for one in (CapacityError, EngineError)}


class WorkerCalls(Protocol):
    """The one thing asked of vLLM's engine client."""

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> list[Any]:
        """Calls `method` in every worker; returns each worker's answer."""
        raise NotImplementedError


class Residency:
    """Loads bundles into every worker of one engine and hands out `TaskHandle`s.

    Build it with `await Residency.connect(engine, model_folder)`.
    """

    def __init__(self, engine: WorkerCalls, *, facts: EngineFacts, base: BaseModelRef) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._handles: dict[int, TaskHandle] = {}
        self.facts = facts
        self.base = base

    @classmethod
    async def connect(cls, engine: WorkerCalls, model_folder: Path) -> Self:
        """Asks the workers for their shapes and reads the identity of the checkpoint in `model_folder`.

        Raises:
            EngineError: the engine does not run our plugin and worker extension.
            BaseModelError: the folder holds no checkpoint.
        """
        base = await asyncio.to_thread(base_model_ref, model_folder)
        facts = EngineFacts.from_plain(await _call(engine, "passepartout_facts"))
        return cls(engine, facts=facts, base=base)

    @property
    def handles(self) -> tuple[TaskHandle, ...]:
        """What was loaded through this object and not unloaded, oldest first."""
        return tuple(self._handles.values())

    def check(self, bundle: Bundle) -> None:
        """Says at once whether `bundle` can be served here.

        Raises:
            BaseModelMismatchError: trained for another checkpoint.
            BundleError: shapes, lengths or parts this engine does not take; each named.
            ConfigError: a bundle that was never saved (workers read it from its folder).
        """
        self._check_base(bundle)
        misfits = find_misfits(bundle, self.facts)
        if misfits:
            raise BundleError(bundle.path or Path(bundle.name), misfits)
        if bundle.path is None:
            came, cure = "a bundle in memory", "save it with prompts.bundle.save_bundle and load that"
            raise ConfigError(bundle.name, [fault("path", expected="a folder", came=came, cure=cure)])

    async def load(self, bundle: Bundle) -> TaskHandle:
        """Makes `bundle` resident in every worker; requests may carry the handle from then on.

        A digest that is resident already is not copied again: the handles share slot and rows.

        Raises:
            BaseModelMismatchError, BundleError, ConfigError: see `check`.
            CapacityError: no room; nothing was changed.
        """
        self.check(bundle)
        assert bundle.path is not None
        async with self._lock:
            path = str(bundle.path.resolve())
            placed = await _call(self._engine, "passepartout_load", path, bundle.digest)
            handle = _make_handle(bundle, placed)
            self._handles[handle.slot] = handle
        return handle

    async def unload(self, handle: TaskHandle) -> None:
        """Takes the task out of every worker once each `load` of it is undone.

        The caller sees to it that no request carries the handle any more: a request that still does is
        stopped in the worker, it is never answered by the base model.
        """
        async with self._lock:
            left = await _call(self._engine, "passepartout_unload", handle.slot, handle.digest)
            if left == 0:
                self._handles.pop(handle.slot, None)

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


def _make_handle(bundle: Bundle, placed: dict[str, Any]) -> TaskHandle:
    manifest = bundle.manifest
    delta = bundle.frame_delta
    frame = None
    if manifest.frame is not None and delta is not None:
        frame = TaskFrame(spec=manifest.frame, delta=delta)
    return TaskHandle(
        name=bundle.name,
        digest=bundle.digest,
        slot=placed["slot"],
        text_row0=placed["text_row0"],
        text_length=placed["text_length"],
        vision_row0=placed["vision_row0"],
        vision_length=placed["vision_length"],
        vision_mode=manifest.vision.mode if manifest.vision else None,
        has_projector=manifest.projector,
        frame=frame,
    )


async def _call(engine: WorkerCalls, method: str, *args: object) -> Any:
    """One answer of all workers; they answer `{"ok": …}`, or `{"code", "message"}` where they refuse."""
    try:
        answers = await engine.collective_rpc(method, args=args)
    except Exception as error:  # vLLM raises a plain Exception for whatever went wrong in a worker
        raise EngineError(f"{method}: the engine failed: {error}") from error
    first = answers[0]
    if any(answer != first for answer in answers):
        raise EngineError(f"{method}: the workers disagree: {shown(answers)}")
    if "ok" not in first:
        raise _BY_CODE.get(first["code"], EngineError)(first["message"])
    return first["ok"]
