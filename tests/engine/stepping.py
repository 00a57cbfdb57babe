"""vLLM's engine in this process, a scheduler that writes down each step, and the rows each step marked.

Of vLLM 0.32: `scheduler_cls`; `SchedulerOutput`'s `num_scheduled_tokens`, `scheduled_new_reqs` and
`scheduled_cached_reqs`; and the place of the model in an engine that runs in this process.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.v1.core.sched.scheduler import Scheduler

from tests.engine.serving import engine_options

__all__ = ["Chunk", "Recorder", "RecordingScheduler", "start_here"]


@dataclass(frozen=True)
class Chunk:
    """Tokens `start` to `end` - 1 of one request, computed in one step."""

    start: int
    end: int

    def count_within(self, length: int) -> int:
        """How many of them are among the first `length`."""
        return max(min(self.end, length) - self.start, 0)


class RecordingScheduler(Scheduler):
    """vLLM's own; `steps` has each step's chunks by the request's id."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[dict[str, Chunk]] = []

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        output = super().schedule(*args, **kwargs)
        cached = output.scheduled_cached_reqs
        starts = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        starts |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        if output.num_scheduled_tokens:
            counts = output.num_scheduled_tokens.items()
            self.steps.append({name: Chunk(starts[name], starts[name] + count) for name, count in counts})
        return output


@dataclass
class Recorder:
    """What the engine of `llm` does from now on."""

    llm: Any
    marked: list[int] = field(default_factory=list)
    """How many tokens each step marked as prompt rows."""

    def __post_init__(self) -> None:
        self.core = self.llm.llm_engine.engine_core.engine_core
        worker = self.core.model_executor.driver_worker.worker
        self.is_runner_v2 = type(worker.model_runner).__module__ == "vllm.v1.worker.cpu.model_runner"
        self.model = worker.model_runner.get_model()
        self.model.register_forward_pre_hook(self._look)

    def _look(self, *_: object) -> None:
        self.marked.append(int((self.model.prompt_bank.rows >= 0).sum()))

    def forget(self) -> None:
        """Starts anew."""
        self.core.scheduler.steps.clear()
        self.marked.clear()

    def chunks(self) -> dict[str, list[Chunk]]:
        """Each request's chunks in their order; by the id that its `RequestOutput` has."""
        found: dict[str, list[Chunk]] = {}
        for step in self.steps:
            for name, chunk in step.items():
                found.setdefault(name.rpartition("-")[0], []).append(chunk)
        return found

    @property
    def steps(self) -> list[dict[str, Chunk]]:
        """See `RecordingScheduler`."""
        steps: list[dict[str, Chunk]] = self.core.scheduler.steps
        return steps

    def count_preemptions(self) -> int:
        """vLLM's own counter, from the start of the engine."""
        return sum(one.value for one in self.llm.get_metrics() if one.name == "vllm:num_preemptions")


@contextmanager
def start_here(model: Path, cache: Path, **options: Any) -> Iterator[Any]:
    """`LLM` as `serving.start_llm`, but the engine runs in this process, step by step as it is asked to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(cache))
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        patch.delenv("VLLM_PLUGINS", raising=False)
        patch.setattr(torch, "set_num_threads", torch.set_num_threads)  # vLLM's CPU worker replaces it
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        llm = LLM(str(model), **engine_options(scheduler_cls=RecordingScheduler, **options))
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()
            cleanup_dist_env_and_memory()
