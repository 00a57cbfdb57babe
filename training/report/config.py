"""What every report is told: parts that refuse unknown keys, and how a task is measured."""

from pydantic import BaseModel, ConfigDict, Field

from prompts.manifest import Usage
from training.config import How
from training.data import DataConfig

__all__ = ["MeasuredTask", "Part"]


class Part(BaseModel):
    """Unknown keys refused, values immutable, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MeasuredTask(Part):
    """What to measure on, and how."""

    test: DataConfig = Field(description="held-out examples")
    usage: Usage = Field(default_factory=Usage, description="how the task is asked")
    how: How = Field("ranking", description="how an answer is found, see `passepartout evaluate --help`")
