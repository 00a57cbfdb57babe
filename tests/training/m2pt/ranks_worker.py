"""What each process of tests/training/m2pt/test_ranks.py runs, under torchrun: jobs, one after the other.

    torchrun --nproc-per-node 2 ranks_worker.py JOBS.json

A job may name a forward pass at which its first start `fails` in one process; the second goes on from there.
How each start ended goes to `<out>.<rank>.json`.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from passepartout import main
from prompts.errors import PictureError
from training.backbone import LlavaBackbone
from training.backbone.sharding import share_out
from training.config import M2ptConfig
from training.m2pt import train_m2pt
from training.ranks import Ranks, open_ranks, ranks_here
from training.reading import Reader, Seat


def ended(job: dict[str, Any]) -> str:
    """How one start of the job ended."""
    try:
        bundle = train_m2pt(M2ptConfig.model_validate(job["config"]))
    except SystemExit as exit_:
        return f"SystemExit {exit_.code}"
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return bundle.digest


@contextmanager
def failing(number: int) -> Iterator[None]:
    """While open forward pass `number` cannot be read in the second process."""
    seats = Reader.seats

    def read(reader: Reader, now: int) -> list[Seat]:
        if now == number and ranks_here().rank == 1:
            raise PictureError("a picture that the second process alone cannot read")
        return seats(reader, now)

    Reader.seats = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        Reader.seats = seats  # type: ignore[method-assign]


def run(job: dict[str, Any], ranks: Ranks) -> None:
    """Each start of one job, one process as the other."""
    ends = []
    if "fails" in job:
        with failing(job["fails"]):
            ends.append(ended(job))
    ends.append(ended(job))
    Path(f"{job['config']['out']}.{ranks.rank}.json").write_text(json.dumps(ends), encoding="utf-8")
    ranks.wait()


def report_share(model: Path, ranks: Ranks) -> None:
    """Values of a shared-out model's decoder layers in this process, and in all, to `share.<rank>.json`."""
    layers = LlavaBackbone.load(model, dtype="float32", share=share_out).decoder.layers
    sizes = [(weight.to_local().numel(), weight.numel()) for weight in layers.parameters()]
    held = [sum(column) for column in zip(*sizes, strict=True)]
    Path(sys.argv[1]).with_name(f"share.{ranks.rank}.json").write_text(json.dumps(held), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with open_ranks() as here:
        for one in told["jobs"]:
            run(one, here)
        report_share(Path(told["jobs"][0]["config"]["model"]), here)
        sys.exit(main(told["command"]))
