"""What an evaluation is told."""

from pathlib import Path

from pydantic import Field, model_validator

from prompts.manifest import Name
from training.config.base import Dtype, How, Settings
from training.data import DataConfig

__all__ = ["EvaluateConfig"]


class EvaluateConfig(Settings):
    """`passepartout evaluate`: the base model on examples, and a bundle or a served task beside it."""

    model: Path | None = Field(None, description="folder of a checkpoint, run by transformers")
    server: str | None = Field(None, description="address of a running server, in place of a checkpoint")
    served_model: str = Field(
        "base", min_length=1, description="name under which the server has its model (see its /v1/models)"
    )
    data: DataConfig
    bundle: Path | None = Field(None, description="a bundle to measure beside the base model")
    task: Name | None = Field(None, description="a task of the server to measure beside its base model")
    how: How = Field(
        "ranking",
        description="rank the choices by mean log-likelihood per token; decode among them, as a server does "
        "for a task with choices; or generate and compare",
    )
    batch: int = Field(16, ge=1)
    max_new_tokens: int = Field(16, ge=1, description="for generation")
    dtype: Dtype = "auto"
    out: Path | None = Field(None, description="folder for results.json and answers.jsonl (default: none)")

    @model_validator(mode="after")
    def _asks_one_engine(self) -> "EvaluateConfig":
        if (self.model is None) == (self.server is None):
            came = "neither" if self.model is None else "both"
            raise ValueError(f"expected model or server, came {came}; give one of them")
        if self.server is None and self.task is not None:
            raise ValueError("expected a server for task, came a model; give `bundle`, or `server`")
        if self.server is None and "served_model" in self.model_fields_set:
            raise ValueError(
                "expected a server for served_model, came a model; leave it out, or give `server`"
            )
        if self.server is not None and self.bundle is not None:
            raise ValueError("expected a model for bundle, came a server; give `task`, or `model`")
        return self
