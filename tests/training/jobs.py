"""Jobs of a few steps on the tiny model, and conversation files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.config import BaselineConfig, M2ptConfig, TvpConfig
from training.run import Run

__all__ = ["FRAME", "QUESTION", "baseline_job", "halt_at", "m2pt_job", "make_llava_json", "tvp_job"]

QUESTION = "what is it?"
FRAME: dict[str, Any] = {"canvas": [64, 64], "inner": 44}
"""Not the tower's size (56): the framed picture goes through a resize."""


def make_llava_json(folder: Path, records: list[Any]) -> Path:
    """A conversation file in `folder`."""
    file = folder / "talks.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    return file


def tvp_job(
    model: Path, pictures: Path, out: Path, tvp: dict[str, Any] | None = None, **changes: Any
) -> TvpConfig:
    """Three steps of two pictures; λ₁ = λ₂ = 0 unless `tvp` says otherwise."""
    options = {"frame": FRAME, "lambda_fca": 0, "lambda_tse": 0, **(tvp or {})}
    return TvpConfig.model_validate(_job(model, pictures, out, {"tvp": options, **changes}))


def m2pt_job(
    model: Path, pictures: Path, out: Path, m2pt: dict[str, Any] | None = None, **changes: Any
) -> M2ptConfig:
    """Three steps of two pictures; prompts of 3 and 2 rows, and the projector."""
    options = {"text_length": 3, "vision_length": 2, **(m2pt or {})}
    return M2ptConfig.model_validate(_job(model, pictures, out, {"lr": 0.01, "m2pt": options, **changes}))


def baseline_job(
    model: Path, pictures: Path, out: Path, learns: dict[str, Any], **changes: Any
) -> BaselineConfig:
    """Three steps of two pictures of something else than M²PT's."""
    return BaselineConfig.model_validate(
        _job(model, pictures, out, {"lr": 0.01, "learns": learns, **changes})
    )


def _job(model: Path, pictures: Path, out: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": str(model),
        "out": str(out),
        "data": {"kind": "image_folder", "root": str(pictures), "question": QUESTION},
        "steps": 3,
        "batch": 2,
        "dtype": "float32",
        "log_every": 1,
        "checkpoint_every": 1,
        **changes,
    }


class _Killed(Exception):
    pass


def halt_at(step: int, train: Callable[[Any], object], config: Any) -> None:
    """Runs a job for its first `step` steps, as if it were killed in the one after."""
    is_due = Run.is_due

    def is_due_or_killed(run: Run, now: int) -> bool:
        if now == step:
            raise _Killed
        return is_due(run, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "is_due", is_due_or_killed)
        with pytest.raises(_Killed):
            train(config)
