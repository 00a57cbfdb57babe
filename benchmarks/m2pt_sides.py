"""The sides of `m2pt-steps`: our trainer's step, and the same method on transformers' Trainer with hooks."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.materials import M2PT_LENGTHS
from benchmarks.sides import Step, Told
from training.config import M2ptConfig
from training.data import Example
from training.pico.tasks import make_source

__all__ = ["LR", "SEED", "SIDES", "examples_of"]

LR, SEED = 7e-4, 42
_WITHOUT_END = 10**9


def examples_of(told: Told) -> list[Example]:
    """The instruction mix, drawn before anything is measured; step n takes the next `batch` of them."""
    source = make_source("instructions", "train", told.examples, 0)
    return [source[index] for index in range(told.examples)]


def trainer(told: Told) -> Step:
    """The trainer's own step, on its part of batches that its own code makes ahead."""
    from training.backbone import LlavaBackbone
    from training.batches import prepared
    from training.m2pt.batching import answer_total, batch_maker
    from training.m2pt.learned import fresh
    from training.ranks import ranks_here

    _take_threads(told)
    config, ranks, examples = _config(told), ranks_here(), examples_of(told)
    backbone = LlavaBackbone.load(told.model, dtype=told.dtype)
    learned = fresh(config, backbone)
    optimizer = torch.optim.AdamW(learned.groups(), weight_decay=config.m2pt.weight_decay)
    batch_of = batch_maker(config, backbone, learned.layout)

    def chosen(number: int) -> Sequence[Example]:
        places = range(number * told.batch, (number + 1) * told.batch)
        return ranks.part([examples[place % told.examples] for place in places])

    batches = prepared(lambda number: batch_of(chosen(number)), range(_WITHOUT_END))

    def step() -> float:
        with ranks.agreeing():
            batch = next(batches)
        summed, tokens = answer_total(backbone, batch, learned.deep())
        loss = summed / max(1.0, ranks.total(tokens))
        loss.backward()
        found = ranks.total(loss.item())
        ranks.add_gradients(learned.tensors.values())
        torch.nn.utils.clip_grad_norm_(learned.tensors.values(), config.m2pt.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        return found

    return step


def hooked(told: Told, *, attention: str | None = None) -> Step:
    """The same on `transformers.Trainer`, in the trainer's dtype; `attention`: see `hooked_trainer`."""
    from benchmarks.m2pt_hooked import hooked_trainer, in_steps
    from training.backbone import choose_device, choose_dtype

    _take_threads(told)
    made = hooked_trainer(
        told.model,
        examples_of(told),
        batch=told.batch,
        dtype=str(choose_dtype(told.dtype, choose_device("auto"))).removeprefix("torch."),
        lengths=M2PT_LENGTHS,
        lr=LR,
        attention=attention,
    )
    return in_steps(made)


def _take_threads(told: Told) -> None:
    if told.threads is not None:
        torch.set_num_threads(told.threads)


def _config(told: Told) -> M2ptConfig:
    text_length, vision_length = M2PT_LENGTHS
    given: dict[str, Any] = {
        "name": "steps",
        "model": told.model,
        "out": Path("."),
        "data": {"kind": "pico", "task": "instructions", "size": told.examples},
        "steps": 1,
        "batch": told.batch,
        "dtype": told.dtype,
        "lr": LR,
        "seed": SEED,
        "m2pt": {"text_length": text_length, "vision_length": vision_length},
    }
    return M2ptConfig.model_validate(given)


SIDES: dict[str, Callable[[Told], Step]] = {
    "trainer": trainer,
    "Trainer with hooks": hooked,
    "Trainer with hooks, eager attention": partial(hooked, attention="eager"),
}
"""What is measured, by name."""
