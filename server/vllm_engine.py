"""Seam: what the engine client tells of each request, and of itself. Written for vLLM 0.32.

`EngineClient.generate(prompt, sampling_params, request_id, **options)` gives an async generator of
`RequestOutput`; every route that writes tokens ends in it, streamed or not, so it is watched there. Of an
output are read: `prompt_token_ids`, `num_cached_tokens`, `outputs[i].token_ids` and
`metrics.first_token_latency` (seconds from the request's arrival in the front end; None with
--disable-log-stats). A prompt is an `EngineInput`, a dict that may have `cache_salt`.
`AsyncLLM.engine_core.call_utility_all_async(name, *args)` gives one result per engine.
On a signal vLLM's server calls `EngineClient.shutdown(timeout=…)` before anything else, in a thread, while it
goes on answering; and once more, in the event loop, when it has stopped.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from prompts.errors import UnsupportedError
from prompts.faults import fault
from server.access.caller import CURRENT_CALLER, Caller
from server.access.gate import Gate
from server.log import logger
from server.metrics import TaskMetrics
from server.observe.record import CURRENT_RECORD, Record
from server.scope import CURRENT_SCOPE, RequestScope

__all__ = [
    "AllEngines",
    "find_model_folder",
    "is_healthy",
    "watch_encode",
    "watch_generate",
    "watch_shutdown",
]

_CUMULATIVE = "CUMULATIVE"
_LOOK_SECONDS = 0.05


class AllEngines:
    """`collective_rpc` that gives the answers of all workers of all engines.

    With engines side by side vLLM's own asks them all and gives the first one's answers: what another one
    refuses, or has not read yet, would go unseen.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> list[Any]:
        """Calls `method` in every worker; returns each worker's answer, engine by engine."""
        call = self._engine.engine_core.call_utility_all_async
        engines = await call("collective_rpc", method, timeout, args, kwargs)
        return [answer for workers in engines for answer in workers]


def watch_generate(engine: Any, metrics: TaskMetrics) -> None:
    """Have `engine.generate` report tokens and the time to the first one to `metrics`, and hold its task."""
    own_generate = engine.generate

    def generate(prompt: Any, sampling_params: Any, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        outputs: AsyncGenerator[Any, None] = own_generate(_salted(prompt), sampling_params, *args, **options)
        scope, caller = CURRENT_SCOPE.get(), CURRENT_CALLER.get()
        kind = getattr(getattr(sampling_params, "output_kind", None), "name", "")
        if caller is not None:
            outputs = _spent(outputs, caller, is_cumulative=kind == _CUMULATIVE)
        if scope is None:
            return outputs
        record = CURRENT_RECORD.get()
        return _watched(outputs, scope, metrics, record, is_cumulative=kind == _CUMULATIVE)

    engine.generate = generate


def watch_encode(engine: Any) -> None:
    """Have what `engine.encode` reads salted and counted as what `engine.generate` does."""
    own_encode = engine.encode

    def encode(prompt: Any, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        outputs: AsyncGenerator[Any, None] = own_encode(_salted(prompt), *args, **options)
        caller = CURRENT_CALLER.get()
        return outputs if caller is None else _spent(outputs, caller, is_cumulative=True)

    engine.encode = encode


def watch_shutdown(engine: Any, gate: Gate, *, seconds: float) -> None:
    """Have `engine.shutdown` wait until the requests under way are answered, for at most `seconds`.

    `gate` lets nobody in from then on.
    """
    own_shutdown = engine.shutdown

    def shutdown(timeout: float | None = None) -> None:
        ends = time.monotonic() + seconds
        gate.is_closed = True
        if not _is_in_event_loop():
            if gate.under_way:
                logger.info("%d requests are answered before the server stops", gate.under_way)
            while gate.under_way and time.monotonic() < ends:
                time.sleep(_LOOK_SECONDS)
            if gate.under_way:
                logger.warning("%d requests are cut off after %s s", gate.under_way, seconds)
        own_shutdown(timeout=timeout if timeout is None else max(min(timeout, ends - time.monotonic()), 0.0))

    engine.shutdown = shutdown


def _is_in_event_loop() -> bool:
    """Where waiting would keep the very answers from going on that are waited for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def is_healthy(engine: Any) -> bool:
    """Whether the engine answers: `check_health` raises `EngineDeadError` where it does not."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        await engine.check_health()
    except EngineDeadError:
        return False
    return True


def find_model_folder(model_config: Any) -> Path:
    """The folder of the checkpoint in use; for a name of the hub, where vLLM has just put it."""
    model = Path(model_config.model)
    if model.is_dir():
        return model
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model_config.model, revision=model_config.revision, local_files_only=True))


async def _watched(
    outputs: AsyncGenerator[Any, None],
    scope: RequestScope,
    metrics: TaskMetrics,
    record: Record | None,
    *,
    is_cumulative: bool,
) -> AsyncGenerator[Any, None]:
    prompt = cached = completion = 0
    is_first = True
    try:
        # Held until the engine is through with it: closing `outputs` sends the abort, and what is sent to
        # the workers later comes after it.
        async with scope.hold(), aclosing(outputs):
            async for output in outputs:
                if is_first and any(len(one.token_ids) for one in output.outputs):
                    is_first = False
                    _note_first(output, scope, metrics)
                prompt = len(output.prompt_token_ids or ())
                cached = output.num_cached_tokens or 0
                written = sum(len(one.token_ids) for one in output.outputs)
                completion = written if is_cumulative else completion + written
                yield output
    finally:
        metrics.tokens(scope.task, prompt=prompt, cached=cached, completion=completion)
        if record is not None:
            record.add_tokens(prompt=prompt, cached=cached, completion=completion)


def _salted(prompt: Any) -> Any:
    """The prompt in its caller's own part of vLLM's prefix cache: blocks are keyed by `cache_salt`.

    Raises:
        UnsupportedError: a prompt that comes in parts, which has no such field.
    """
    caller = CURRENT_CALLER.get()
    if caller is None:
        return prompt
    if not isinstance(prompt, Mapping):
        came, cure = "a stream", "send the prompt whole"
        raise UnsupportedError(fault("prompt", expected="a whole prompt", came=came, cure=cure))
    return {**prompt, "cache_salt": caller.salt_for(prompt.get("cache_salt"))}


async def _spent(
    outputs: AsyncGenerator[Any, None], caller: Caller, *, is_cumulative: bool
) -> AsyncGenerator[Any, None]:
    """Tells the caller's account what the prompt and its answer took, also where the client went away."""
    prompt = completion = 0
    try:
        async with aclosing(outputs):
            async for output in outputs:
                prompt = len(output.prompt_token_ids or ())
                written = sum(len(getattr(one, "token_ids", ())) for one in _completions(output))
                completion = written if is_cumulative else completion + written
                yield output
    finally:
        caller.spend(prompt + completion)


def _completions(output: Any) -> Any:
    """A pooling output has one result, without tokens."""
    found = output.outputs
    return found if isinstance(found, list) else ()


def _note_first(output: Any, scope: RequestScope, metrics: TaskMetrics) -> None:
    """A streamed request sees its first token itself; a whole one is told by the engine when it was."""
    if scope.streamed:
        seconds = time.perf_counter() - scope.started
    elif output.metrics is not None and output.metrics.first_token_latency > 0:
        seconds = output.metrics.first_token_latency
    else:
        return
    metrics.first_token(scope.task, seconds=seconds, streamed=scope.streamed)
