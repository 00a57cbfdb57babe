"""Starting vLLM on a tiny model, and asking it the cases that the oracle answers too."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prompts.bundle import Bundle
from server.engine.facts import Capacity
from server.engine.handles import TaskHandle
from server.engine.offline import OfflineTasks, engine_arguments
from tests.engine.oracle import Answer, Oracle
from tests.engine.tiny_llava import VOCABULARY
from tests.engine.tiny_tasks import make_task

__all__ = [
    "ALL_CASES",
    "BLOCK",
    "CAPACITY",
    "TASKS",
    "Case",
    "Served",
    "assert_same",
    "cached_blocks",
    "engine_options",
    "load_all",
    "make_picture",
    "start_llm",
]

BLOCK = 32
"""Tokens of a KV block, the least vLLM's CPU attention takes; every case below is longer than one."""
CAPACITY = Capacity(tasks=24, text_rows=96, vision_rows=48, prefix_rows=24, lm_heads=1)
MAX_LOGPROB_ERROR = 1e-3

_ASK_PICTURE = "USER: <image>\nlook closely, then name the bird in the picture in one word. ASSISTANT:"
_ASK_PICTURES = "USER: <image>\n<image>\nname the bird in each picture, the first one first. ASSISTANT:"
_ASK_TEXT = "USER: hello there, how are you today? and what will you do tomorrow, when it rains? ASSISTANT:"

TASKS: dict[str, dict[str, Any]] = {
    "text": {"text": 5},
    "long-text": {"text": 40},
    "input-alone": {"text": 6, "at": (0,)},
    "some-layers": {"text": 4, "at": (0, 2), "vision": 3, "vision_at": (0, 1)},
    "prefix": {"prefix": 6},
    "prefix-and-pictures": {"prefix": 2, "vision": 2, "projector": True, "frame": True},
    "vision": {"vision": 3},
    "vision-paper": {"vision": 4, "mode": "paper"},
    "both": {"text": 7, "vision": 2},
    "both-paper": {"text": 1, "vision": 1, "mode": "paper"},
    "projector": {"projector": True},
    "frame": {"frame": True},
    "everything": {"text": 3, "vision": 2, "projector": True, "frame": True},
    "not-the-input": {"text": 3, "at": (1,), "vision": 2, "vision_at": (1, 2)},
    "head": {"text": 3, "lm_head": True},
}
"""Name -> what `tiny_tasks.make_task` is told."""


@dataclass(frozen=True)
class Case:
    """One request: a task (None is the base model) and how many pictures."""

    task: str | None
    pictures: int = 1

    @property
    def prompt(self) -> str:
        return (_ASK_TEXT, _ASK_PICTURE, _ASK_PICTURES)[self.pictures]

    def __str__(self) -> str:
        return f"{self.task or 'base'}-{self.pictures}"


_WITH_TEXT = [name for name, parts in TASKS.items() if {"text", "prefix"} & parts.keys()]
ALL_CASES = [
    *(Case(task) for task in (None, *TASKS)),
    *(Case(task, 0) for task in (None, *_WITH_TEXT)),
    *(Case(task, 2) for task in (None, "vision", "both", "everything")),
]


def make_picture(seed: int, *, height: int = 70, width: int = 90) -> Image.Image:
    """Random pixels, not square and of no size the model uses."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [make_picture(1), make_picture(2)]


@dataclass
class Served:
    """A running engine, the tasks resident in it, and the oracle on the same checkpoint."""

    tasks: OfflineTasks
    oracle: Oracle
    model: Path
    bundles: dict[str, Bundle]
    handles: dict[str, TaskHandle]
    pictures: list[Image.Image] = field(default_factory=lambda: PICTURES)
    mark: str = "<image>\n"
    """What stands for a picture in a prompt of this model."""

    def load(self, bundle: Bundle) -> TaskHandle:
        """Makes one more task resident."""
        self.bundles[bundle.name] = bundle
        self.handles[bundle.name] = self.tasks.load(bundle)
        return self.handles[bundle.name]

    def ask(self, cases: Sequence[Case], *, tokens: int = 8) -> list[Any]:
        """All cases in one batch; vLLM's `RequestOutput`s."""
        from vllm import SamplingParams

        greedy = SamplingParams(temperature=0, max_tokens=tokens, logprobs=VOCABULARY, ignore_eos=True)
        prompts = [
            {"prompt": self.prompt(case), "multi_modal_data": {"image": self.pictures[: case.pictures]}}
            if case.pictures
            else {"prompt": self.prompt(case)}
            for case in cases
        ]
        handles = [self.handles[case.task] if case.task else None for case in cases]
        return self.tasks.generate(prompts, handles, greedy)

    def prompt(self, case: Case) -> str:
        """The case's text as this model is asked."""
        return case.prompt.replace("<image>\n", self.mark)

    def expect(self, case: Case, *, tokens: int = 8) -> Answer:
        """The oracle's answer."""
        bundle = self.bundles[case.task] if case.task else None
        return self.oracle.answer(self.prompt(case), self.pictures[: case.pictures], bundle, tokens=tokens)

    def forget_cached(self) -> None:
        """Empties vLLM's prefix cache and multimodal caches."""
        assert self.tasks.llm.reset_prefix_cache()
        self.tasks.llm.reset_mm_cache()


def assert_same(output: Any, answer: Answer, label: object = "") -> None:
    """Greedy tokens equal, the first token's logprobs over the vocabulary within 1e-3."""
    completion = output.outputs[0]
    first = completion.logprobs[0]
    logprobs = torch.tensor([first[token].logprob for token in range(VOCABULARY)])
    error = (logprobs - answer.logprobs).abs().max().item()
    assert error <= MAX_LOGPROB_ERROR, f"{label}: first token's logprobs are {error} off"
    assert list(completion.token_ids) == answer.tokens, f"{label}: greedy tokens differ"


def cached_blocks(output: Any) -> int:
    """Whole KV blocks of a prompt that come out of the cache a second time (its last token never does)."""
    return (len(output.prompt_token_ids) - 1) // BLOCK


def load_all(served: Served, folder: Path) -> None:
    """Makes every task of `TASKS` resident, without an output layer where the engine takes none."""
    refuses_heads = "lm_head" in served.tasks.residency.facts.refusals
    for seed, (name, parts) in enumerate(TASKS.items(), start=1):
        taken = {part: size for part, size in parts.items() if part != "lm_head" or not refuses_heads}
        served.load(make_task(folder, name, served.model, seed=seed, **taken))


def engine_options(**options: Any) -> dict[str, Any]:
    """What a tiny model's `LLM` is given, `options` on top."""
    return {
        "dtype": "float32",
        "max_model_len": 256,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 512,
        "block_size": BLOCK,
        "max_logprobs": VOCABULARY,
        "seed": 0,
        "disable_log_stats": False,
        **engine_arguments(CAPACITY),
        **options,
    }


@contextmanager
def start_llm(model: Path, cache: Path, **options: Any) -> Iterator[Any]:
    """vLLM's `LLM`, its engine in a process of its own; stopped at the end. `cache`: for what it compiles."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CACHE_ROOT", str(cache))
        environment.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        environment.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        environment.delenv("VLLM_PLUGINS", raising=False)  # all plugins load, as by default
        from vllm import LLM

        llm = LLM(str(model), **engine_options(**options))
        try:
            yield llm
        finally:
            client = llm.llm_engine.engine_core
            client.shutdown()
            client.ctx.destroy(linger=0)  # vLLM leaves it to the garbage collector, which complains
