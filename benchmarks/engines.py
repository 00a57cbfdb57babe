"""Engines side by side: each in a process of its own, so that one has our plugin and the other has not.

    with running(prompted(model, bundles=…)) as ours, running(stock(model)) as theirs:
        ours.ask(batch).tokens_per_second

An engine that is not asked waits without work. Each compiles into a cache of its own, made for this run:
vLLM's key of what it compiled knows the model and the options, and a foreign artifact is never met.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.jobs import Batch, EngineSpec, Report

__all__ = ["Engine", "by_hand", "multi_lora", "prompted", "running", "running_all", "stock"]

KV_CACHE_BYTES = 1 << 30
STOP_SECONDS = 60
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_VLLM = "benchmarks.vllm_runner:serve"


def _options(more: dict[str, Any]) -> dict[str, Any]:
    """The same for every engine of a comparison; what is not named is as vLLM has it by default."""
    shared = {"max_model_len": 512, "max_num_seqs": 32, "max_num_batched_tokens": 2048, "seed": 0}
    return {**shared, "kv_cache_memory_bytes": KV_CACHE_BYTES, **more}


def prompted(model: Path, *, bundles: Sequence[Path] = (), **options: Any) -> EngineSpec:
    """vLLM with our plugin, and these tasks resident."""
    environment = {**_ENVIRONMENT, "VLLM_PLUGINS": "passepartout"}
    options = _options(options)
    return EngineSpec(
        runner=_VLLM, model=model, options=options, environment=environment, bundles=tuple(bundles)
    )


def stock(model: Path, **options: Any) -> EngineSpec:
    """vLLM without any plugin: its own LLaVA."""
    environment = {**_ENVIRONMENT, "VLLM_PLUGINS": ""}
    return EngineSpec(runner=_VLLM, model=model, options=_options(options), environment=environment)


def multi_lora(model: Path, *, adapters: Sequence[Path], rank: int, **options: Any) -> EngineSpec:
    """Stock vLLM with its own multi-LoRA, room for all adapters at once."""
    lora = {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": rank}
    environment = {**_ENVIRONMENT, "VLLM_PLUGINS": ""}
    options = _options({**lora, **options})
    return EngineSpec(
        runner=_VLLM, model=model, options=options, environment=environment, adapters=tuple(adapters)
    )


def by_hand(model: Path, *, bundles: Sequence[Path], **options: Any) -> EngineSpec:
    """Plain transformers (`by_hand_runner`); of the options it reads `dtype`."""
    runner = "benchmarks.by_hand_runner:serve"
    return EngineSpec(
        runner=runner, model=model, options=options, environment=_ENVIRONMENT, bundles=tuple(bundles)
    )


class Engine:
    """A running engine, seen from the process that measures."""

    def __init__(self, pipe: "Connection[Any, Any]", facts: dict[str, Any]) -> None:
        self._pipe = pipe
        self.facts = facts
        """What the engine says of itself, the class of its model among it."""

    def ask(self, batch: Batch) -> Report:
        """Answers a batch.

        Raises:
            RuntimeError: the engine failed; the message has its traceback.
        """
        self._pipe.send(batch)
        report = _receive(self._pipe)
        assert isinstance(report, Report)
        return report

    def check_tasks(self, batch: Batch) -> None:
        """Makes sure that what is measured does something: tasks must change most of a batch's answers.

        Raises:
            RuntimeError: they do not; prompts or adapters are loaded and not used.
        """
        plain = tuple(replace(request, task=None) for request in batch.requests)
        with_tasks, without = (self.ask(one).texts for one in (batch, replace(batch, requests=plain)))
        same = sum(one == other for one, other in zip(with_tasks, without, strict=True))
        if 2 * same > len(plain):
            raise RuntimeError(f"{same} of {len(plain)} answers are the same without their task")


@contextmanager
def running(spec: EngineSpec) -> Iterator[Engine]:
    """Starts an engine, yields it once it is ready, and stops it at the end.

    Raises:
        RuntimeError: it did not start.
    """
    from benchmarks.child import serve  # a light module: the child sets nothing up before its environment is

    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="benchmark-cache-") as cache:
        process = context.Process(target=serve, args=(spec, theirs))
        with _environment({**spec.environment, "VLLM_CACHE_ROOT": cache}):
            process.start()
        theirs.close()
        try:
            yield Engine(ours, _receive(ours))
        finally:
            ours.close()  # which ends the child's loop
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def running_all(*specs: EngineSpec) -> Iterator[list[Engine]]:
    """Starts several engines, one after the other."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(spec)) for spec in specs]


def _receive(pipe: "Connection[Any, Any]") -> Any:
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise RuntimeError("the engine's process ended; what it printed says why") from error
    if isinstance(answer, BaseException):
        raise RuntimeError(str(answer)) from None
    return answer


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    """What a process started inside inherits."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
