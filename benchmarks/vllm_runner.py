"""vLLM's offline `LLM` as an engine to measure, with our plugin or without.

Both get their requests in the same way: scheduling is paused until the whole batch is queued
(`LLM.sleep(level=0)` of vLLM 0.32), then everything runs. Which class the model has is asked of the worker.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.child import Answer
from benchmarks.jobs import Batch, EngineSpec, Report, Request
from server.engine.facts import Capacity
from server.engine.handles import TaskHandle, using_task

__all__ = ["WhichModel", "serve"]

_COUNTERS = {"vllm:prefix_cache_queries", "vllm:prefix_cache_hits"}


class WhichModel:
    """For the stock engine's `worker_extension_cls`: says which class the model has."""

    model_runner: Any

    def benchmark_model_class(self) -> str:
        """`module.Class` of the loaded model."""
        kind = type(self.model_runner.get_model())
        return f"{kind.__module__}.{kind.__qualname__}"


@contextmanager
def serve(spec: EngineSpec) -> Iterator[tuple[dict[str, Any], Answer]]:
    """Starts vLLM as `spec` says. With the plugin the model must be ours, without it vLLM's own."""
    from vllm import LLM

    has_plugin = spec.environment["VLLM_PLUGINS"] != ""
    options = {**_plugin_options(spec), **spec.options} if has_plugin else _stock_options(spec)
    llm = LLM(str(spec.model), **options)
    try:
        asked = _Engine(llm)
        facts = asked.load_tasks(spec) if has_plugin else asked.check_stock()
        if spec.adapters:
            asked.use_adapters(spec)
        yield facts, asked.answer
    finally:
        llm.llm_engine.engine_core.shutdown()


def _plugin_options(spec: EngineSpec) -> dict[str, Any]:
    from server.engine.offline import engine_arguments

    return engine_arguments(Capacity(tasks=64, text_rows=1024, vision_rows=1024, projectors=64))


def _stock_options(spec: EngineSpec) -> dict[str, Any]:
    return {"worker_extension_cls": f"{WhichModel.__module__}.{WhichModel.__qualname__}", **spec.options}


class _Engine:
    """An `LLM` and what a request's task number means to it."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._handles: list[TaskHandle] = []
        self._adapters: list[Any] = []

    def load_tasks(self, spec: EngineSpec) -> dict[str, Any]:
        """Makes the bundles resident; fails where the model is not ours."""
        from prompts.bundle import load_bundle
        from server.engine.offline import OfflineTasks

        tasks = OfflineTasks(self._llm, spec.model)
        self._handles = [tasks.load(load_bundle(path)) for path in spec.bundles]
        return {"model": "prompted", "tasks": len(self._handles)}

    def check_stock(self) -> dict[str, Any]:
        """Fails where the model is not vLLM's own."""
        (came,) = set(self._llm.collective_rpc("benchmark_model_class"))
        if not came.startswith("vllm.model_executor.models."):
            raise RuntimeError(f"expected vLLM's own model class, came {came}")
        return {"model": came}

    def use_adapters(self, spec: EngineSpec) -> None:
        """vLLM loads each with its first request."""
        from vllm.lora.request import LoRARequest

        self._adapters = [
            LoRARequest(f"adapter-{number}", number + 1, str(path))
            for number, path in enumerate(spec.adapters)
        ]

    def answer(self, batch: Batch) -> Report:
        """Queues the whole batch, then runs it."""
        started = time.perf_counter()
        self._llm.sleep(level=0, mode="keep")
        try:
            for request in batch.requests:
                self._enqueue(request, batch)
        finally:
            self._llm.wake_up(tags=["scheduling"])
        queued = time.perf_counter() - started
        outputs = self._llm.wait_for_completion(use_tqdm=False)
        seconds = time.perf_counter() - started
        return Report(
            seconds=seconds,
            queued_seconds=queued,
            texts=[self._decode(one.outputs[0].token_ids) for one in outputs],
            answer_tokens=[len(one.outputs[0].token_ids) for one in outputs],
            prompt_tokens=[len(one.prompt_token_ids) for one in outputs],
            cached_tokens=[one.num_cached_tokens or 0 for one in outputs],
            counters=self._read_counters(),
        )

    def _enqueue(self, request: Request, batch: Batch) -> None:
        text = isinstance(request.prompt, str)
        prompt: dict[str, Any] = {"prompt" if text else "prompt_token_ids": request.prompt}
        if not text:
            prompt["prompt_token_ids"] = list(request.prompt)
        if request.pictures:
            prompt["multi_modal_data"] = {"image": list(request.pictures)}
        handle, adapter = None, None
        if request.task is not None and self._adapters:
            adapter = self._adapters[request.task]
        elif request.task is not None:
            handle = self._handles[request.task]
        with using_task(handle):
            self._llm.enqueue([prompt], _sampling(request, batch), lora_request=adapter, use_tqdm=False)

    def _decode(self, token_ids: Sequence[int]) -> str:
        """An answer's own text: vLLM's may begin with what it held back of a random prompt's last bytes."""
        return str(self._llm.get_tokenizer().decode(list(token_ids), skip_special_tokens=True)).strip()

    def _read_counters(self) -> dict[str, int]:
        try:
            metrics = self._llm.get_metrics()
        except AssertionError:  # the engine keeps no statistics, which is the default offline
            return {}
        return {one.name: int(one.value) for one in metrics if one.name in _COUNTERS}


def _sampling(request: Request, batch: Batch) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if request.choices:
        held = StructuredOutputsParams(choice=list(request.choices))
        return SamplingParams(temperature=0.0, max_tokens=batch.tokens, structured_outputs=held)
    return SamplingParams(temperature=0.0, max_tokens=batch.tokens, ignore_eos=not batch.may_end)
