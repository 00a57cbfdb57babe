"""What a TVP report is told: models, tasks, methods, seeds, and how a frame is trained."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from prompts.manifest import FrameSpec
from training.config import Dtype, LossOver
from training.corruptions import CORRUPTIONS
from training.data import DataConfig
from training.report.config import MeasuredTask, Part

__all__ = [
    "METHODS",
    "AblationConfig",
    "CorruptionConfig",
    "Method",
    "RecipeConfig",
    "ReportConfig",
    "ScaleConfig",
    "TaskConfig",
]

Method = Literal["untrained", "vp", "evp", "tvp-without-fca", "tvp-without-tse", "tvp", "ensemble"]
METHODS: dict[Method, str] = {
    "untrained": "the picture shrunk into a black frame, nothing learned",
    "vp": "a perturbation of the whole picture (unbounded), task loss alone",
    "evp": "a frame around the picture, task loss alone (λ₁ = λ₂ = 0)",
    "tvp-without-fca": "a frame, task semantics enrichment alone (λ₁ = 0)",
    "tvp-without-tse": "a frame, feature consistency alignment alone (λ₂ = 0)",
    "tvp": "a frame with both regularisers",
    "ensemble": "TVP through two models at once",
}
"""What each method is, in the report's words."""
assert set(METHODS) == set(get_args(Method))


Share = Annotated[float, Field(gt=0, le=1)]


class TaskConfig(MeasuredTask):
    """One task: what to train on, what to measure on, how; asked alike in training and test."""

    train: DataConfig = Field(description="training examples")
    loss_over: LossOver = Field("vocabulary", description="see `passepartout train --help`")
    shifted: bool = Field(
        False, description="unlike what the models were trained on: has a column of its own at a glance"
    )
    named: bool = Field(
        True, description="answers name what is to be seen, so that a judge can be asked; false: λ₂ = 0"
    )


class RecipeConfig(Part):
    """How every frame is trained; fields as in `passepartout train tvp --help` tells."""

    steps: int = Field(200, ge=1, description="optimiser steps")
    batch: int = Field(8, ge=1, description="examples of a step")
    lr: float = Field(10.0, gt=0, description="length of the first step")
    lambda_fca: float = Field(0.005, ge=0, description="λ₁, of feature consistency alignment")
    lambda_tse: float = Field(0.001, ge=0, description="λ₂, of task semantics enrichment")
    clip: Path | None = Field(
        None,
        description="folder of the CLIP or SigLIP that task semantics enrichment asks; none: lambda_tse 0",
    )
    frame: FrameSpec = Field(default_factory=FrameSpec)
    random_crop: bool = Field(True, description="of training pictures")
    flip: bool = Field(True, description="mirror half of the training pictures")
    dtype: Dtype = "auto"

    @model_validator(mode="after")
    def _has_a_judge_to_ask(self) -> "RecipeConfig":
        if self.lambda_tse and self.clip is None:
            raise ValueError("clip: expected a folder, came none; name one, or set lambda_tse: 0")
        return self

    @property
    def judge(self) -> Path | None:
        """The CLIP or SigLIP that is asked; None where task semantics enrichment is off."""
        return self.clip if self.lambda_tse else None


class AblationConfig(Part):
    """Methods that are measured on some sources and seeds only, beside the two of the whole grid."""

    methods: tuple[Method, ...] = Field(
        ("untrained", "vp", "tvp-without-fca", "tvp-without-tse", "ensemble"),
        description="beside the grid's",
    )
    sources: tuple[str, ...] = Field((), description="default: the first model")
    seeds: tuple[int, ...] = Field((), description="default: the first seed")


class ScaleConfig(Part):
    """Accuracy over the amount of training data."""

    task: str = Field(description="a name of tasks")
    source: str = Field(description="a name of models, to train on")
    shares: tuple[Share, ...] = Field((0.01, 0.03, 0.1, 0.3, 1.0), description="of the examples")
    examples: int = Field(1600, ge=1, description="that a share of 1 is")
    seeds: tuple[int, ...] = Field((), description="default: the first seed")


class CorruptionConfig(Part):
    """Accuracy under common corruptions of the test pictures."""

    task: str = Field(description="a name of tasks")
    source: str = Field(description="one of sources, whose frames and answers are looked at")
    kinds: tuple[str, ...] = Field((), description="names of corruptions (default: all)")
    severities: tuple[Literal[1, 2, 3], ...] = Field((1, 2, 3), min_length=1, description="1 to 3")

    @field_validator("kinds")
    @classmethod
    def _are_known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(CORRUPTIONS))
        if unknown:
            known = ", ".join(CORRUPTIONS)
            raise ValueError(f"expected some of {known}, came {', '.join(unknown)}; correct the names")
        return kinds


class ReportConfig(Part):
    """`passepartout report tvp`."""

    title: str = "TVP: transfer between models"
    models: dict[str, Path] = Field(min_length=1, description="a name for each checkpoint folder")
    sources: tuple[str, ...] = Field((), description="models to train on (default: all)")
    tasks: dict[str, TaskConfig] = Field(min_length=1, description="a name for each")
    methods: tuple[Method, ...] = Field(("evp", "tvp"), description="on every source, task and seed")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="each trains anew")
    recipe: RecipeConfig = Field(description="how every frame is trained")
    ablation: AblationConfig | None = Field(None, description="what each part is worth")
    scale: ScaleConfig | None = Field(None, description="over the amount of training data")
    corruption: CorruptionConfig | None = Field(None, description="on corrupted pictures")
    batch: int = Field(16, ge=1, description="examples in one forward pass of a measurement")
    notes: Path | None = Field(None, description="Markdown that goes to the end of the report")
    out: Path = Field(description="folder of report.md and its pictures")
    cache: Path = Field(Path("runs/report"), description="where finished jobs are kept, by content")

    @model_validator(mode="before")
    @classmethod
    def _default_places(cls, raw: Any) -> Any:
        """Studies without sources and seeds take the first."""
        if not isinstance(raw, dict) or not raw.get("models"):
            return raw
        first, seeds = next(iter(raw["models"])), raw.get("seeds") or [0]
        filled = {"sources": raw.get("sources") or list(raw["models"])}
        for name in ("ablation", "scale"):
            if isinstance(raw.get(name), dict):
                part = {"seeds": seeds[:1], **raw[name]}
                filled[name] = {"sources": [first], **part} if name == "ablation" else part
        return {**raw, **filled}

    @model_validator(mode="after")
    def _names_are_known(self) -> "ReportConfig":
        unknown = [
            f"{field}: expected names among {', '.join(known)}, came {', '.join(wrong)}; correct them"
            for field, names, known in self._named()
            if (wrong := [name for name in names if name not in known])
        ]
        if unknown:
            raise ValueError("; ".join(unknown))
        if self.corruption and self.corruption.source not in self.sources:
            raise ValueError(
                f"expected corruption.source among the sources, came {self.corruption.source}; no frame is "
                "trained on it"
            )
        every = [self.seeds, *(study.seeds for study in (self.ablation, self.scale) if study is not None)]
        if any(len(set(seeds)) < len(seeds) for seeds in every):
            raise ValueError("expected different seeds, came one twice; take one out")
        if self.ablation and "ensemble" in self.ablation.methods and len(self.models) < 2:
            raise ValueError("expected two models for an ensemble, came one; leave it out of the methods")
        return self

    def _named(self) -> Iterator[tuple[str, Sequence[str], Iterable[str]]]:
        """Each field that names models or tasks, the names, and those there are."""
        yield "sources", self.sources, self.models
        if self.ablation:
            yield "ablation.sources", self.ablation.sources, self.models
        for field, study in (("scale", self.scale), ("corruption", self.corruption)):
            if study is not None:
                yield f"{field}.source", [study.source], self.models
                yield f"{field}.task", [study.task], self.tasks
