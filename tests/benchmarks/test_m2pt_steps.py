"""The sides of `m2pt-steps` compute the same method."""

from pathlib import Path

import pytest

from benchmarks.m2pt_hooked import hooked_trainer, in_steps
from benchmarks.m2pt_sides import LR, examples_of, trainer
from benchmarks.materials import M2PT_LENGTHS
from benchmarks.sides import Told
from tests.engine.tiny_llava import make_tiny_llava

STEPS, BATCH = 3, 4


def test_the_trainer_and_the_hooks_learn_the_same(tmp_path: Path) -> None:
    """Float32 on the tiny model: prompts of both encoders and the projector move alike."""
    model = make_tiny_llava(tmp_path)
    told = Told(model, BATCH, 2 * BATCH, "float32")
    examples, lengths = examples_of(told), M2PT_LENGTHS
    theirs = hooked_trainer(
        model, examples, batch=BATCH, dtype="float32", lengths=lengths, lr=LR, steps=STEPS
    )
    step, ours = in_steps(theirs), trainer(told)
    losses = [step() for _ in range(STEPS)]
    assert losses == pytest.approx([ours() for _ in range(STEPS)], rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
