"""What TVP is told."""

from pathlib import Path

from pydantic import Field, model_validator

from prompts.manifest import FrameSpec
from training.config.base import Settings, Share, TrainConfig

__all__ = ["TvpConfig", "TvpOptions"]


class TvpOptions(Settings):
    """TVP's own settings. λ₁ = λ₂ = 0 is EVP, the baseline, and saves a pass through the tower."""

    frame: FrameSpec = Field(default_factory=FrameSpec, description="geometry and value range")
    lambda_fca: float = Field(0.005, ge=0.0, description="λ₁, weight of feature consistency alignment")
    lambda_tse: float = Field(0.001, ge=0.0, description="λ₂, weight of task semantics enrichment")
    clip: Path | None = Field(
        None, description="folder of the CLIP or SigLIP that task semantics enrichment asks"
    )
    also: tuple[Path, ...] = Field(
        (), description="more frozen models to train the frame through at once (an ensemble)"
    )
    random_crop: bool = Field(True, description="train on random crops of the shrunk picture (test: centre)")
    flip: bool = Field(True, description="train on mirrored pictures half the time")

    @model_validator(mode="after")
    def _has_a_clip(self) -> "TvpOptions":
        if self.lambda_tse > 0 and self.clip is None:
            raise ValueError(
                "expected clip: FOLDER for task semantics enrichment, came none; name one or set "
                "lambda_tse: 0"
            )
        return self


class TvpConfig(TrainConfig):
    """`passepartout train tvp`."""

    lr: float = Field(10.0, gt=0, description="length of the first step, in units of the gradient's own norm")
    warmup: Share = Field(0.0, description="share of the steps over which the learning rate rises")
    tvp: TvpOptions
