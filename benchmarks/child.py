"""The other end of `engines.running`: one engine in a process of its own, asked through a pipe."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from benchmarks.jobs import Batch, EngineSpec, Report

__all__ = ["Runner", "serve"]

Answer = Callable[[Batch], Report]
Runner = Callable[[EngineSpec], AbstractContextManager[tuple[dict[str, Any], Answer]]]
"""Opens an engine: gives its facts and what answers a batch."""


def serve(spec: EngineSpec, pipe: Any) -> None:
    """Opens the engine, sends its facts, answers batches until the pipe closes; a failure is sent back."""
    module, _, name = spec.runner.partition(":")
    try:
        runner: Runner = getattr(import_module(module), name)
        with runner(spec) as (facts, answer):
            pipe.send(facts)
            for batch in _received(pipe):
                pipe.send(answer(batch))
    except Exception:  # whatever it was, the process that measures is the one to say it
        pipe.send(RuntimeError(traceback.format_exc()))


def _received(pipe: Any) -> Iterator[Batch]:
    while True:
        try:
            yield pipe.recv()
        except (EOFError, ConnectionResetError, KeyboardInterrupt):
            return
