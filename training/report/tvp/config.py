"""What a TVP report is told: models, tasks, methods, seeds, and how a frame is trained."""

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

Method = Literal["vp", "evp", "tvp-without-fca", "tvp-without-tse", "tvp", "ensemble"]
METHODS: dict[Method, str] = {
    "vp": "a perturbation of the whole picture, task loss alone",
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

    train: DataConfig
    loss_over: LossOver = "vocabulary"
    shifted: bool = Field(False, description="unlike what the models were trained on: counts for the aim")
    named: bool = Field(
        True, description="answers name what is to be seen, so that a judge can be asked; false: λ₂ = 0"
    )


class RecipeConfig(Part):
    """How every frame is trained; fields as in `passepartout train tvp`."""

    steps: int = Field(200, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(10.0, gt=0)
    lambda_fca: float = Field(0.005, ge=0)
    lambda_tse: float = Field(0.001, ge=0)
    clip: Path = Field(description="folder of the CLIP or SigLIP that task semantics enrichment asks")
    frame: FrameSpec = Field(default_factory=FrameSpec)
    random_crop: bool = True
    flip: bool = True
    dtype: Dtype = "auto"


class AblationConfig(Part):
    """Methods that are measured on some sources and seeds only, beside the two of the whole grid."""

    methods: tuple[Method, ...] = ("vp", "tvp-without-fca", "tvp-without-tse", "ensemble")
    sources: tuple[str, ...] = Field((), description="default: the first model")
    seeds: tuple[int, ...] = Field((), description="default: the first seed")


class ScaleConfig(Part):
    """Accuracy over the amount of training data."""

    task: str
    source: str
    shares: tuple[Share, ...] = Field((0.01, 0.03, 0.1, 0.3, 1.0), description="of the examples")
    examples: int = Field(1600, ge=1, description="that a share of 1 is")
    seeds: tuple[int, ...] = Field((), description="default: the first seed")


class CorruptionConfig(Part):
    """Accuracy under common corruptions of the test pictures."""

    task: str
    source: str
    kinds: tuple[str, ...] = Field((), description="names of corruptions (default: all)")
    severities: tuple[Literal[1, 2, 3], ...] = Field((1, 2, 3), min_length=1)

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
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    methods: tuple[Method, ...] = Field(("evp", "tvp"), description="on every source, task and seed")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    recipe: RecipeConfig
    ablation: AblationConfig | None = None
    scale: ScaleConfig | None = None
    corruption: CorruptionConfig | None = None
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
        ablation = self.ablation.sources if self.ablation else ()
        studies = [study for study in (self.scale, self.corruption) if study is not None]
        models = {*self.sources, *ablation, *(study.source for study in studies)} - set(self.models)
        tasks = {study.task for study in studies} - set(self.tasks)
        if models or tasks:
            unknown = ", ".join(sorted(models | tasks))
            raise ValueError(f"expected names of models and tasks above, came {unknown}; correct them")
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
