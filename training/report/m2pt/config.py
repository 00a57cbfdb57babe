"""What an M²PT report is told: one model, its training data, the tasks to measure, the methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from prompts.manifest import Usage
from training.config import Dtype, How
from training.config.base import Share, check_choices
from training.data import DataConfig
from training.report.config import MeasuredTask, Part

__all__ = [
    "COMPONENTS",
    "METHODS",
    "AttentionConfig",
    "LengthsConfig",
    "Method",
    "RateConfig",
    "RecipeConfig",
    "ReportConfig",
]

Method = Literal[
    "none",
    "full",
    "lora-1",
    "lora-2",
    "lora-4",
    "lora-8",
    "prompt-tuning",
    "vpt",
    "text",
    "projector",
    "both",
    "m2pt",
]
METHODS: dict[Method, str] = {
    "none": "the model as it is",
    "full": "full fine-tuning of language model and projector, LLaVA's second stage",
    "lora-1": "LoRA of rank 1 on every linear layer of the language model (PEFT)",
    "lora-2": "LoRA of rank 2 there, near M²PT's size on the pico family",
    "lora-4": "LoRA of rank 4 there",
    "lora-8": "LoRA of rank 8 there",
    "prompt-tuning": "embeddings before the text, at the input alone (PEFT)",
    "vpt": "M²PT's vision prompts alone",
    "text": "M²PT's text prompts alone",
    "projector": "M²PT's projector alone",
    "both": "M²PT's text and vision prompts, the projector as it is",
    "m2pt": "M²PT: text and vision prompts in every layer, and the projector",
}
"""What each method is, in the report's words."""
assert set(METHODS) == set(get_args(Method))

COMPONENTS: tuple[Method, ...] = ("none", "vpt", "text", "projector", "both", "m2pt")
"""The methods of the component ablation, in the order of its picture."""


class RateConfig(Part):
    """A method's peak learning rates; a plain number is `lr`."""

    lr: float = Field(gt=0)
    vision_lr: float | None = Field(None, gt=0, description="the vision prompts' own (default: lr)")
    projector_lr: float | None = Field(None, gt=0, description="the projector's own (default: lr)")

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_number(cls, given: Any) -> Any:
        return given if isinstance(given, Mapping | RateConfig) else {"lr": given}


class RecipeConfig(Part):
    """How every method is trained; fields as in `passepartout train m2pt`."""

    steps: int = Field(300, ge=1)
    batch: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    warmup: Share = 0.03
    dtype: Dtype = "auto"
    loss_over: Literal["vocabulary", "choices"] = "vocabulary"
    checkpoint_every: int = Field(100, ge=1)
    text_length: int = Field(16, ge=1, description="P_t; prompt tuning has as many virtual tokens")
    vision_length: int = Field(4, ge=1, description="P_v")
    mode: Literal["released", "paper"] = "released"
    init_text: str | None = Field(
        None,
        min_length=1,
        description="text prompts, PEFT's too, begin as this text (default: xavier, random)",
    )
    alpha_over_rank: float = Field(2.0, gt=0, description="of LoRA")


class LengthsConfig(Part):
    """Accuracy over the numbers of text and vision prompts, each pair trained anew from random tokens."""

    text: tuple[int, ...] = Field(min_length=1, description="values of P_t")
    vision: tuple[int, ...] = Field(min_length=1, description="values of P_v")
    seeds: tuple[int, ...] = Field((), description="default: the first seed")


class AttentionConfig(Part):
    """Where the first token of the answer looks from, in the last layers, with M²PT's prompts."""

    layers: int = Field(4, ge=1, description="how many of the last layers")
    pictures: int = Field(1, ge=1, description="of each unseen task")


class ReportConfig(Part):
    """`passepartout report m2pt`."""

    title: str = "M²PT beside other ways to tune"
    model: Path = Field(description="folder of the frozen model, in LLaVA's layout")
    train: DataConfig = Field(description="training examples, the same in the same order for every method")
    unseen: dict[str, DataConfig] = Field(min_length=1, description="test examples of tasks not trained on")
    seen: dict[str, DataConfig] = Field(min_length=1, description="test examples of tasks trained on")
    usage: Usage = Field(default_factory=Usage, description="how the tasks are asked, in training and test")
    how: How = Field("ranking", description="how an answer is found, see `passepartout evaluate --help`")
    methods: tuple[Method, ...] = Field(tuple(METHODS), min_length=1)
    rates: dict[Method, RateConfig] = Field(description="each method's learning rate")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    recipe: RecipeConfig = Field(default_factory=RecipeConfig)
    lengths: LengthsConfig | None = None
    attention: AttentionConfig | None = None
    batch: int = Field(16, ge=1, description="examples in one forward pass of a measurement")
    notes: Path | None = Field(None, description="Markdown that goes to the end of the report")
    out: Path = Field(description="the report, a .md file; its pictures go into a folder beside it")
    cache: Path = Field(Path("runs/report-m2pt"), description="finished trainings and measurements")

    @property
    def tasks(self) -> dict[str, MeasuredTask]:
        """Every task, the unseen ones first."""
        entries = {**self.unseen, **self.seen}
        return {
            name: MeasuredTask(test=data, usage=self.usage, how=self.how) for name, data in entries.items()
        }

    @property
    def pictures(self) -> Path:
        """Folder of the report's pictures."""
        return self.out.with_suffix("")

    @model_validator(mode="after")
    def _fits_together(self) -> "ReportConfig":
        both = sorted(self.unseen.keys() & self.seen.keys())
        if both:
            raise ValueError(
                f"expected tasks to be seen or unseen, came both for {', '.join(both)}; rename one"
            )
        if self.out.suffix != ".md":
            raise ValueError(f"out: expected a file of Markdown, came {self.out}; let it end in .md")
        check_choices(self.recipe.loss_over, self.usage, field="recipe.loss_over")
        lengths = self.lengths.seeds if self.lengths else ()
        if any(len(set(seeds)) < len(seeds) for seeds in (self.seeds, lengths)):
            raise ValueError("expected different seeds, came one twice; take one out")
        return self

    @model_validator(mode="after")
    def _has_rates(self) -> "ReportConfig":
        wanted = {*self.methods, *(("m2pt",) if self.lengths else ())} - {"none"}
        missing = [method for method in METHODS if method in wanted and method not in self.rates]
        if missing:
            raise ValueError(
                f"rates: expected one for each method, came none for {', '.join(missing)}; add them"
            )
        if self.attention is not None and "m2pt" not in self.methods:
            raise ValueError(
                "attention: expected m2pt among the methods, came none; add it, or leave this out"
            )
        return self
