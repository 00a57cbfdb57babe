"""Tasks on vLLM's offline `LLM`, without a server: for tests, benchmarks and notebooks.

    llm = LLM(model, **engine_arguments(Capacity(text_rows=64)))
    tasks = OfflineTasks(llm, Path(model))
    handle = tasks.load(load_bundle(path))
    outputs = tasks.generate(["a", "b"], [handle, None], SamplingParams(max_tokens=8))

The handle is put in while vLLM 0.32 renders, always in this process, so the engine may run in a process of
its own (the default) or in this one (`VLLM_ENABLE_V1_MULTIPROCESSING=0`). Scheduling is paused until all of a
call is queued: one call is one batch as far as it fits.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prompts.bundle import Bundle
from prompts.errors import UnsupportedError
from prompts.faults import fault
from server.engine.facts import ADDITIONAL_CONFIG_KEY, Capacity
from server.engine.handles import TaskHandle, using_task
from server.engine.plugin import WORKER_EXTENSION
from server.engine.residency import Residency

__all__ = ["LocalEngine", "OfflineTasks", "engine_arguments"]


def engine_arguments(capacity: Capacity | None = None) -> dict[str, Any]:
    """What `LLM` and `EngineArgs` must be given for tasks, beside anything else of vLLM's."""
    room = vars(capacity or Capacity())
    return {"worker_extension_cls": WORKER_EXTENSION, "additional_config": {ADDITIONAL_CONFIG_KEY: room}}


class LocalEngine:
    """`LLM` with the coroutine that `Residency` asks for."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> list[Any]:
        """Calls `method` in every worker; returns each worker's answer."""
        answers: list[Any] = self._llm.collective_rpc(method, timeout, args, kwargs)
        return answers


class OfflineTasks:
    """An `LLM` and the tasks resident in it. Not for use inside a running event loop."""

    def __init__(self, llm: Any, model_folder: Path) -> None:
        self.llm = llm
        self.residency = asyncio.run(Residency.connect(LocalEngine(llm), model_folder))

    def load(self, bundle: Bundle) -> TaskHandle:
        """Checks the bundle and keeps it on the device until `unload`.

        Raises:
            BaseModelMismatchError, BundleError, ConfigError: see `Residency.check`.
            CapacityError, EngineError: see `Residency.acquire`.
        """
        self.residency.check(bundle)
        return asyncio.run(self.residency.acquire(bundle, is_patient=False))

    def unload(self, handle: TaskHandle) -> None:
        """Undoes one `load`; the task leaves the device when its room is needed. No request may need it."""
        self.residency.release(handle)

    def generate(
        self,
        prompts: Sequence[Any],
        handles: Sequence[TaskHandle | None],
        sampling_params: Any,
        **options: Any,
    ) -> list[Any]:
        """`LLM.generate` with a task, or None, for each prompt; its `RequestOutput`s in their order.

        `sampling_params`: for all prompts, or a list with one for each.

        Raises:
            UnsupportedError: prompt logprobs under a task with an lm_head of its own.
        """
        return self._run(self.llm.enqueue, prompts, handles, sampling_params, options)

    def chat(
        self,
        conversations: Sequence[Any],
        handles: Sequence[TaskHandle | None],
        sampling_params: Any,
        **options: Any,
    ) -> list[Any]:
        """`LLM.chat` with a task, or None, for each conversation (a list of messages)."""
        return self._run(self.llm.enqueue_chat, conversations, handles, sampling_params, options)

    def _run(
        self,
        enqueue: Callable[..., list[str]],
        inputs: Sequence[Any],
        handles: Sequence[TaskHandle | None],
        sampling_params: Any,
        options: dict[str, Any],
    ) -> list[Any]:
        given = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(inputs)
        _check_prompt_logprobs(given, handles)
        queued: list[str] = []
        self.llm.sleep(level=0, mode="keep")
        try:
            for one, handle, sampling in zip(inputs, handles, given, strict=True):
                with using_task(handle):
                    queued += enqueue([one], sampling, use_tqdm=False, **options)
        except BaseException:
            self.llm.llm_engine.abort_request(queued, internal=True)  # the ids that `enqueue` gives
            raise
        finally:
            self.llm.wake_up(tags=["scheduling"])
        return list(self.llm.wait_for_completion(use_tqdm=False))


def _check_prompt_logprobs(sampling_params: Sequence[Any], handles: Sequence[TaskHandle | None]) -> None:
    """vLLM makes them by the model's own output layer."""
    for sampling, handle in zip(sampling_params, handles, strict=True):
        if handle is not None and handle.has_lm_head and sampling.prompt_logprobs is not None:
            cure = "ask for logprobs of the answer alone"
            came = f"{sampling.prompt_logprobs}, and task {handle.name} has an lm_head of its own"
            raise UnsupportedError(fault("prompt_logprobs", expected="None", came=came, cure=cure))
