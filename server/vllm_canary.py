"""Seam: asking vLLM a first token with its logprobs, in the server and offline. Written for vLLM 0.32.

In the server: `app.state.online_renderer.render_chat(ChatCompletionRequest)` gives (conversation, engine
inputs) with the server's own chat template, or an object with `error.message`; the inputs go to
`EngineClient.generate`. Offline: `LLM.enqueue_chat`, through `OfflineTasks.chat`. Of a `RequestOutput` are
read `prompt_token_ids` and `outputs[0].logprobs[0]`, id -> object with `logprob`.

Not used: `SamplingParams.logprob_token_ids`. In model runner V1 it takes the logprobs of other requests of
the same step away (`v1/sample/sampler.py`). So no more are asked for than `max_logprobs` allows.
"""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompts.canary_check import COMPARED, FirstToken
from prompts.errors import BundleError, EngineError
from prompts.faults import fault
from server.canary import Messages
from server.engine.handles import TaskHandle, using_task
from server.engine.offline import OfflineTasks
from server.scope import CURRENT_SCOPE

__all__ = ["ANSWER_SECONDS", "OfflineAsker", "ServerAsker"]

ANSWER_SECONDS = 300.0
"""A first token that takes longer is an engine's fault: it sleeps, or is stuck."""

_RAW = ("raw_logprobs", "processed_logprobs")  # the same at temperature 0 without penalties


class ServerAsker:
    """Asks the engine of a running server.

    Args:
        engine: vLLM's engine client.
        renderer: the server's `online_renderer`.
    """

    def __init__(self, engine: Any, renderer: Any) -> None:
        self._engine, self._renderer = engine, renderer
        self.dtype = _dtype_of(engine.vllm_config)
        self.unable = _why_unable(engine.vllm_config)

    async def first_tokens(self, conversations: Sequence[Messages], handle: TaskHandle) -> list[FirstToken]:
        """See `server.canary.Asker`; the inputs go together and share batches with requests."""
        asked = [self._ask(number, one, handle) for number, one in enumerate(conversations, start=1)]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                # All of them end before one's failure is told: an unloaded task may have none under way.
                came = await asyncio.gather(*asked, return_exceptions=True)
        except TimeoutError as error:
            raise EngineError(f"canary: no answer within {ANSWER_SECONDS:.0f} seconds") from error
        failures = [one for one in came if isinstance(one, BaseException)]
        if failures:
            raise failures[0]
        return [one for one in came if not isinstance(one, BaseException)]

    async def _ask(self, number: int, messages: Messages, handle: TaskHandle) -> FirstToken:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        CURRENT_SCOPE.set(None)  # of this task alone: a canary is no part of the request that had it asked
        with using_task(handle):
            try:
                request = ChatCompletionRequest(messages=messages, max_completion_tokens=1)
                rendered = await self._renderer.render_chat(request)
            except TimeoutError as error:  # vLLM's own limit on reading a prompt
                raise EngineError(f"canary: input {number} is not read in time: {error}") from error
            except ValueError as error:  # also vLLM's own, of what a client asks
                raise _refused(handle.name, number, str(error)) from error
        if not isinstance(rendered, tuple):
            raise _refused(handle.name, number, rendered.error.message)
        params = _sampling(self._engine.vllm_config)
        try:
            outputs = self._engine.generate(rendered[1][0], params, f"canary-{uuid.uuid4().hex}")
            *_, last = [output async for output in outputs]
        except ValueError as error:
            raise _refused(handle.name, number, str(error)) from error
        except Exception as error:  # vLLM's EngineDeadError, EngineGenerateError and whatever comes beside
            raise EngineError(f"canary: the engine failed: {error}") from error
        return _first_token(last)


class OfflineAsker:
    """Asks an `LLM` in this process."""

    def __init__(self, tasks: OfflineTasks) -> None:
        self._tasks = tasks
        self._config = tasks.llm.llm_engine.vllm_config
        self.dtype = _dtype_of(self._config)
        self.unable = _why_unable(self._config)

    async def first_tokens(self, conversations: Sequence[Messages], handle: TaskHandle) -> list[FirstToken]:
        """See `server.canary.Asker`; one batch."""
        params = _sampling(self._config)
        try:
            outputs = self._tasks.chat(conversations, [handle] * len(conversations), params)
        except ValueError as error:
            raise _refused(handle.name, None, str(error)) from error
        return [_first_token(one) for one in outputs]


def _sampling(config: Any) -> Any:
    """One greedy token and as many logprobs as are compared and allowed."""
    from vllm import SamplingParams

    allowed = config.model_config.max_logprobs
    count = COMPARED if allowed == -1 else min(COMPARED, allowed)
    return SamplingParams(temperature=0, max_tokens=1, logprobs=count, detokenize=False)


def _first_token(output: Any) -> FirstToken:
    if not output.outputs or not output.outputs[0].logprobs:
        raise EngineError("canary: the engine ended without a token")
    said = {int(token): float(one.logprob) for token, one in output.outputs[0].logprobs[0].items()}
    return FirstToken(list(output.prompt_token_ids), said)


def _dtype_of(config: Any) -> str:
    return str(config.model_config.dtype).removeprefix("torch.")


def _why_unable(config: Any) -> str | None:
    """Why the engine's logprobs are none that a trainer's can be held against."""
    model, cache = config.model_config, str(config.cache_config.cache_dtype)
    if model.max_logprobs == 0:
        return "the server gives no logprobs (--max-logprobs 0)"
    if model.logprobs_mode not in _RAW:
        return f"the server gives {model.logprobs_mode} for logprobs (--logprobs-mode)"
    if model.quantization is not None:
        return f"the engine quantises the model ({model.quantization}), which moves logprobs by itself"
    if cache not in ("auto", _dtype_of(config)):
        return f"the engine keeps keys and values in another dtype ({cache}), which moves logprobs by itself"
    return None


def _refused(task: str, number: int | None, came: str) -> BundleError:
    field = "canary" if number is None else f"canary: input {number}"
    cure = "give the engine room for it (--max-model-len, --limit-mm-per-prompt), or serve with --canary off"
    return BundleError(Path(task), [fault(field, expected="an input the engine takes", came=came, cure=cure)])
