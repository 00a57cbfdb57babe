"""What each process of tests/training/m2pt/test_ranks.py runs, under torchrun: jobs, one after the other.

    torchrun --nproc-per-node 2 ranks_worker.py JOBS.json

A job may name a file `broken` that its first start finds cut; the second goes on from there. How each start
ended goes to `<out>.<rank>.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from passepartout import main
from training.config import M2ptConfig
from training.m2pt import train_m2pt
from training.ranks import Ranks, open_ranks


def ended(job: dict[str, Any]) -> str:
    """How one start of the job ended."""
    try:
        bundle = train_m2pt(M2ptConfig.model_validate(job["config"]))
    except SystemExit as exit_:
        return f"SystemExit {exit_.code}"
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return bundle.digest


def run(job: dict[str, Any], ranks: Ranks) -> None:
    """Each start of one job, one process as the other."""
    ends, broken = [], Path(job["broken"]) if "broken" in job else None
    if broken is not None:
        whole = broken.read_bytes()
        ranks.total(0)  # all have read it
        if ranks.is_first:
            broken.write_bytes(whole[:50])
        ranks.total(0)
        ends.append(ended(job))
        if ranks.is_first:
            broken.write_bytes(whole)
        ranks.total(0)
    ends.append(ended(job))
    Path(f"{job['config']['out']}.{ranks.rank}.json").write_text(json.dumps(ends), encoding="utf-8")
    ranks.total(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with open_ranks() as here:
        for one in told["jobs"]:
            run(one, here)
        sys.exit(main(told["command"]))
