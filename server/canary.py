"""Asks an engine a bundle's canary, and keeps a task from being served that fails it.

`check_canary` is the whole of it; `CanaryLoader` asks it when a task first comes to the device, so that the
registry and the store know nothing of canaries. The inputs are asked the way a client's request comes: as
messages, usage put in, the server's own chat template and picture processing, the task's handle in the
request. Choices are left out: the first token is compared before they mask any.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol
from weakref import WeakValueDictionary

from prompts.bundle import Bundle
from prompts.canary import Canary, CanaryInput
from prompts.canary_check import CanaryReport, FirstToken, compare
from prompts.errors import BundleError, EngineError, PassepartoutError
from prompts.manifest import BaseModelRef, Usage
from server.canary_result import CanaryResult
from server.engine.handles import TaskHandle
from server.log import logger
from server.served import Loader
from server.surface import Shape
from server.usage import apply_usage

__all__ = ["Asker", "CanaryLoader", "ask_canary", "check_canary", "conversations_of", "passed_over"]

Messages = list[dict[str, Any]]
Observe = Callable[[str, str, float | None], None]
"""Is told a task's name, the state of its canary or `error`, and how far off that was, of what it may be."""


def _nobody(task: str, result: str, off: float | None) -> None:
    """Nobody is told."""


class Asker(Protocol):
    """What asks the engine: `server.vllm_canary.ServerAsker`, `OfflineAsker`, or a fake in tests.

    `dtype`: what the engine computes in; `unable`: why its logprobs cannot be compared, None where they can.
    """

    dtype: str
    unable: str | None

    async def first_tokens(self, conversations: Sequence[Messages], handle: TaskHandle) -> list[FirstToken]:
        """The likeliest first tokens to each conversation under the task.

        Raises:
            BundleError: a conversation is refused.
            EngineError: the engine failed.
        """
        raise NotImplementedError


class CanaryLoader:
    """A `Loader` that lets no task through that fails its canary. What passed is not asked again of a digest.

    `only_warn`: what fails is served all the same, and the log says so. `observe`: see `Observe`.
    """

    def __init__(
        self,
        inner: Loader,
        asker: Asker,
        *,
        base: BaseModelRef,
        only_warn: bool = False,
        observe: Observe = _nobody,
    ) -> None:
        self._observe = observe
        self._inner, self._asker, self._base, self._only_warn = inner, asker, base, only_warn
        self._passed: dict[str, Canary] = {}
        self._results: dict[str, CanaryResult] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of those that wait for one canary; each task has its own, a slow one keeps no other waiting."""

    def check(self, bundle: Bundle) -> None:
        """See `Loader.check`."""
        self._inner.check(bundle)

    def is_on_device(self, digest: str) -> bool:
        """See `Loader.is_on_device`."""
        return self._inner.is_on_device(digest)

    def is_pinned(self, bundle: Bundle) -> bool:
        """See `Loader.is_pinned`."""
        return self._inner.is_pinned(bundle)

    def has_room(self, bundle: Bundle) -> bool:
        """See `Loader.has_room`."""
        return self._inner.has_room(bundle)

    def is_unproven(self, bundle: Bundle) -> bool:
        """See `Loader.is_unproven`; no canary keeps it out that would be passed over, or warn only."""
        if bundle.canary is None or self._only_warn or self._has_passed(bundle):
            return False
        return passed_over(bundle.canary, self._asker, self._base) is None

    def unpin(self, digest: str) -> None:
        """See `Loader.unpin`."""
        self._inner.unpin(digest)

    async def discard(self, digest: str) -> None:
        """See `Loader.discard`."""
        self._passed.pop(digest, None)
        self._results.pop(digest, None)
        await self._inner.discard(digest)

    def canary_result(self, bundle: Bundle) -> CanaryResult:
        """See `Loader.canary_result`."""
        if bundle.canary is None:
            return CanaryResult("none")
        return self._results.get(bundle.digest, CanaryResult("waiting"))

    @asynccontextmanager
    async def using(
        self, bundle: Bundle, *, is_held: bool = False, is_patient: bool = True
    ) -> AsyncIterator[TaskHandle]:
        """See `Loader.using`; whoever comes first waits for the canary too.

        Raises:
            BundleError: the engine does not find what the trainer saw.
            EngineError: it could not be asked.
        """
        async with self._inner.using(bundle, is_held=is_held, is_patient=is_patient) as handle:
            if not is_held and not self._has_passed(bundle):
                async with self._turns.setdefault(bundle.digest, asyncio.Lock()):
                    await self._require(bundle, handle)
            yield handle

    def _has_passed(self, bundle: Bundle) -> bool:
        if bundle.canary is None:
            return True  # there is nothing to ask
        known = self._passed.get(bundle.digest)
        return known is bundle.canary or known == bundle.canary

    async def _require(self, bundle: Bundle, handle: TaskHandle) -> None:
        if bundle.canary is None or self._has_passed(bundle):
            return
        try:
            faults, result = await check_canary(self._asker, bundle, handle, base=self._base)
        except PassepartoutError:
            self._observe(bundle.name, "error", None)
            raise
        except Exception as error:  # of the engine, or of an odd canary: one bundle's fault, nobody else's
            self._observe(bundle.name, "error", None)
            logger.exception("task %s: its canary could not be asked", bundle.name)
            raise EngineError(f"canary: {type(error).__name__}: {error}") from error
        self._results[bundle.digest] = result
        self._observe(bundle.name, result.state, result.off)
        if faults and not self._only_warn:
            raise BundleError(bundle.path or Path(bundle.name), faults)
        for one in faults:
            logger.warning("task %s is served though it fails its canary: %s", bundle.name, one)
        self._passed[bundle.digest] = bundle.canary


async def check_canary(
    asker: Asker, bundle: Bundle, handle: TaskHandle, *, base: BaseModelRef
) -> tuple[list[str], CanaryResult]:
    """The faults that a bundle's canary finds in the engine that serves `base`, and what is to be told of it.

    Raises:
        BundleError: the engine refuses an input.
        EngineError: the engine failed.
    """
    if bundle.canary is None:
        return [], CanaryResult("none")
    reason = passed_over(bundle.canary, asker, base)
    if reason is not None:
        logger.warning("task %s: its canary is passed over: %s", bundle.name, reason)
        return [], CanaryResult("passed_over", reason)
    report = await ask_canary(asker, bundle, bundle.canary, handle)
    inputs, faults = len(report.inputs), list(report.faults)
    if not faults:
        said = "task %s: its canary is found again, %d inputs, %.2g off (%.2g allowed)"
        logger.info(said, bundle.name, inputs, report.difference, report.tolerance)
    state: Literal["failed", "passed"] = "failed" if faults else "passed"
    reason = faults[0] if faults else None
    return faults, CanaryResult(state, reason, inputs, report.difference, report.tolerance)


def passed_over(canary: Canary, asker: Asker, base: BaseModelRef) -> str | None:
    """Why a canary says nothing of this engine; None where it does.

    A frame serves models that it was not made in: there its first tokens are others.
    """
    if canary.base_model.fingerprint != base.fingerprint:
        return f"it was made in another model ({canary.base_model.id or canary.base_model.fingerprint})"
    return asker.unable


async def ask_canary(asker: Asker, bundle: Bundle, canary: Canary, handle: TaskHandle) -> CanaryReport:
    """Ask every input and compare; see `check_canary` for what is raised."""
    came = await asker.first_tokens(conversations_of(canary, bundle.manifest.usage), handle)
    return compare(canary, came, text_length=handle.text_length, dtype=asker.dtype)


def conversations_of(canary: Canary, usage: Usage) -> list[Messages]:
    """Each input as the messages that reach vLLM."""
    return [_conversation(one, usage) for one in canary.inputs]


def _conversation(one: CanaryInput, usage: Usage) -> Messages:
    content: Any = one.question
    if one.picture is not None:
        url = f"data:image/png;base64,{one.picture}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": one.question}]
    body = {"messages": [{"role": "user", "content": content}]}
    messages: Messages = apply_usage(body, usage, shape=Shape.CHAT, generates=False)["messages"]
    return messages
