"""From a report's config to its trainings, each as a job that `passepartout train` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import BaselineConfig, M2ptConfig
from training.report.m2pt.config import Method, ReportConfig

__all__ = ["TuningJob", "plan_jobs", "training_config"]

_PARTS: dict[Method, tuple[bool, bool, bool]] = {
    "vpt": (False, True, False),
    "text": (True, False, False),
    "projector": (False, False, True),
    "both": (True, True, False),
    "m2pt": (True, True, True),
}
"""Text prompts, vision prompts, projector: what of M²PT is on."""


@dataclass(frozen=True)
class TuningJob:
    """One training. `lengths`: P_t and P_v, in the study of lengths; None elsewhere."""

    method: Method
    seed: int
    lengths: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """For people."""
        told = "" if self.lengths is None else f" · {self.lengths[0]} text and {self.lengths[1]} vision rows"
        return f"{self.method} · seed {self.seed}{told}"


def plan_jobs(config: ReportConfig) -> list[TuningJob]:
    """Every training, seeds outermost: an interrupted report has whole seeds."""
    jobs = [TuningJob(method, seed) for seed in config.seeds for method in config.methods if method != "none"]
    study = config.lengths
    if study is not None:
        jobs += [
            TuningJob("m2pt", seed, (text, vision))
            for seed in study.seeds or config.seeds[:1]
            for text in study.text
            for vision in study.vision
        ]
    return jobs


def training_config(config: ReportConfig, job: TuningJob, *, out: Path) -> M2ptConfig | BaselineConfig:
    """The job as `passepartout train m2pt` or, of a `BaselineConfig`, `train baseline` takes it."""
    recipe, rate = config.recipe, config.rates[job.method]
    shared: dict[str, Any] = {
        "name": job.method,
        "model": config.model,
        "out": out,
        "data": config.train,
        "usage": config.usage,
        "seed": job.seed,
        "lr": rate.lr,
        "canary": 0,
        **recipe.model_dump(
            include={"steps", "batch", "accumulate", "warmup", "dtype", "loss_over", "checkpoint_every"}
        ),
    }
    if job.method in _PARTS:
        return M2ptConfig.model_validate({**shared, "m2pt": _options(config, job)})
    return BaselineConfig.model_validate({**shared, "learns": _learns(config, job.method)})


def _options(config: ReportConfig, job: TuningJob) -> dict[str, Any]:
    recipe, rate = config.recipe, config.rates[job.method]
    text, vision, projector = _PARTS[job.method]
    rows = job.lengths or (recipe.text_length, recipe.vision_length)
    options: dict[str, Any] = {
        "text_length": rows[0] if text else 0,
        "vision_length": rows[1] if vision else 0,
        "projector": projector,
        "mode": recipe.mode,
        "vision_lr": rate.vision_lr,
        "projector_lr": rate.projector_lr,
    }
    if job.lengths is not None:
        options["init"] = "vocabulary" if options["text_length"] else "xavier"
    elif text and recipe.init_text is not None:
        options["init_text"] = recipe.init_text
    return options


def _learns(config: ReportConfig, method: Method) -> dict[str, Any]:
    recipe = config.recipe
    if method == "full":
        return {"kind": "full"}
    if method == "prompt-tuning":
        return {"kind": "prompt_tuning", "length": recipe.text_length, "init_text": recipe.init_text}
    rank = int(method.removeprefix("lora-"))
    return {"kind": "lora", "rank": rank, "alpha_over_rank": recipe.alpha_over_rank}
