"""What all data entries of a config share."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Entry"]


class Entry(BaseModel):
    """One place that examples come from. Unknown keys refused, values immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
