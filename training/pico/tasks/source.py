"""The table of the pico tasks, and the sources that draw their examples."""

import functools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.data import Example
from training.data.mix import MixSource
from training.pico.tasks import digits, pope, reasoning, recognition
from training.pico.tasks.base import Draw
from training.pico.tasks.instructions import INSTRUCTION_MIXES, INSTRUCTIONS

__all__ = ["TASKS", "PicoSource", "make_source"]

TASKS: dict[str, Draw] = {
    "category": recognition.category,
    "count": reasoning.count,
    "digits": digits.digits,
    "kind": recognition.kind,
    "kind_beside": reasoning.kind_beside,
    "lines": recognition.lines,
    "missing_kind": reasoning.missing_kind,
    "name": recognition.name,
    "name_held_out": recognition.name_held_out,
    "name_line": recognition.name_line,
    "pope_adversarial": pope.pope_adversarial,
    "pope_popular": pope.pope_popular,
    "pope_random": pope.pope_random,
    "presence": reasoning.presence,
    "same_kind": reasoning.same_kind,
    **INSTRUCTIONS,
}
_STREAMS = dict.fromkeys(("pope_adversarial", "pope_popular", "pope_random"), "pope")
"""Tasks that draw from the stream of another name, so that their pictures are the same."""


@dataclass(frozen=True)
class PicoSource:
    """`size` examples of one task; example i is drawn from (split seed, task, seed, i)."""

    task: str
    split: str
    size: int
    seed: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"example {index} of {self.size}")
        stream = zlib.crc32(_STREAMS.get(self.task, self.task).encode())
        key = [_split_seeds()[self.split], stream, self.seed, index]
        return TASKS[self.task](np.random.default_rng(key), self.split)


def make_source(task: str, split: str, size: int, seed: int) -> PicoSource | MixSource:
    """The source of a task's examples, or of a mix of `INSTRUCTION_MIXES`.

    Raises:
        ConfigError: no such task, or a mix with fewer examples than tasks.
    """
    if task in INSTRUCTION_MIXES:
        return _mix(INSTRUCTION_MIXES[task], split, size, seed)
    if task not in TASKS:
        known = ", ".join(sorted([*TASKS, *INSTRUCTION_MIXES]))
        raise ConfigError(
            "data",
            [fault("data.task", expected=f"one of {known}", came=shown(task), cure="correct the name")],
        )
    return PicoSource(task, split, size, seed)


def _mix(tasks: Sequence[str], split: str, size: int, seed: int) -> MixSource:
    """`size` examples, as many of each task as of the others."""
    if size < len(tasks):
        expected, cure = f"an example of each task, {len(tasks)} at least", "raise it"
        raise ConfigError("data", [fault("data.size", expected=expected, came=str(size), cure=cure)])
    of_each = -(-size // len(tasks))
    parts = {task: PicoSource(task, split, of_each, seed) for task in tasks}
    return MixSource(parts, weights=dict.fromkeys(tasks, 1.0), size=size, seed=seed)


@functools.cache
def _split_seeds() -> dict[str, int]:
    text = resources.files("training.pico").joinpath("split.json").read_text(encoding="utf-8")
    seeds: dict[str, int] = json.loads(text)["seeds"]
    return seeds
