"""What both methods are told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prompts.canary import MAX_INPUTS
from prompts.manifest import Name, Usage, Version
from training.data import DataConfig

__all__ = ["Dtype", "How", "LossOver", "Settings", "Share", "TrainConfig", "check_choices"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Dtype = Literal["auto", "float32", "bfloat16"]
LossOver = Literal["vocabulary", "choices", "ranking"]
How = Literal["ranking", "structured", "generation"]


class Settings(BaseModel):
    """Unknown keys refused, values immutable, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_choices(loss_over: LossOver, usage: Usage, *, field: str) -> None:
    """That a loss over choices has some.

    Raises:
        ValueError: it has fewer than two; `field` is the loss's name in the message.
    """
    came = len(usage.choices or ())
    if loss_over == "choices" and came < 2:
        raise ValueError(
            f"{field}: expected two usage.choices at least, came {came}; "
            f"list them, or set {field}: vocabulary"
        )


class TrainConfig(Settings):
    """What both methods are told. Paths are relative to the current folder."""

    name: Name = Field(description="the task's name, as the server will list it")
    version: Version = Field("1", description="the bundle's version", coerce_numbers_to_str=True)
    description: str = Field("", max_length=4096, description="one line for people")
    model: Path = Field(
        description="folder of the frozen base model: any vision-language one for tvp, LLaVA's for m2pt"
    )
    out: Path = Field(description="run folder: log, plot, checkpoint, and the bundle")
    bundle: Path | None = Field(None, description="where the bundle goes (default: <out>/bundle)")
    data: DataConfig = Field(description="training examples")
    validation: DataConfig | None = Field(
        None, description="examples for the bundle's metrics (default: none)"
    )
    max_broken_share: float = Field(
        0.01,
        ge=0.0,
        lt=1.0,
        description="of the training examples that may have a broken record or picture; they are named and "
        "skipped (0: none may; validation is always whole)",
    )
    steps: int = Field(ge=1, description="optimiser steps")
    batch: int = Field(16, ge=1, description="examples in one forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes in one step")
    warmup: Share = Field(0.03, description="share of the steps over which the learning rate rises")
    seed: int = Field(42, ge=0, lt=2**32, description="of order, crops and first values")
    dtype: Dtype = Field("auto", description="of the frozen weights; auto: bfloat16 where the machine has it")
    loss_over: LossOver = Field(
        "vocabulary",
        description="what an answer's tokens compete with: every token (the papers), or those of "
        "usage.choices, as at serving; ranking (frames): the answer as a whole with the example's other "
        "choices, by mean log-likelihood per token, as `evaluate` ranks them",
    )
    usage: Usage = Field(default_factory=Usage, description="how the task is asked; goes into the bundle")
    canary: int = Field(
        3,
        ge=0,
        le=MAX_INPUTS,
        description="examples (of the validation, else the training data) that go into the bundle, pictures "
        "and all, for a server to check itself with; 0: none",
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    log_every: int = Field(10, ge=1, description="steps between lines of the log")
    tensorboard: bool = Field(
        False, description="write the log's figures for TensorBoard too, in <out>/board"
    )

    @model_validator(mode="after")
    def _has_choices_to_lose_over(self) -> "TrainConfig":
        check_choices(self.loss_over, self.usage, field="loss_over")
        return self

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle is written."""
        return self.bundle or self.out / "bundle"
