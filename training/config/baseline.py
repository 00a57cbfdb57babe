"""What a method that M²PT is compared with is told: the same job, with something else to learn."""

from typing import Annotated, Literal

from pydantic import Field

from training.config.base import Settings
from training.config.m2pt import M2ptConfig, M2ptOptions

__all__ = ["BaselineConfig", "FullConfig", "Learns", "LoraConfig", "PromptTuningConfig"]


class LoraConfig(Settings):
    """Low-rank adapters on every linear layer of the language model (Hu et al. 2022), PEFT's own."""

    kind: Literal["lora"]
    rank: int = Field(ge=1, description="of each adapter")
    alpha_over_rank: float = Field(2.0, gt=0, description="the factor an adapter's product is scaled by")


class PromptTuningConfig(Settings):
    """Learned embeddings in front of the text (Lester et al. 2021), PEFT's own."""

    kind: Literal["prompt_tuning"]
    length: int = Field(16, ge=1, description="virtual tokens")
    init_text: str | None = Field(
        None, min_length=1, description="begin with this text's embeddings (default: random tokens')"
    )


class FullConfig(Settings):
    """Every weight of language model and projector, the tower frozen: LLaVA's second stage."""

    kind: Literal["full"]


Learns = Annotated[LoraConfig | PromptTuningConfig | FullConfig, Field(discriminator="kind")]


class _NoPrompts(M2ptOptions):
    """M²PT's settings that concern every job; nothing of its own is learned."""

    text_length: Literal[0] = 0
    vision_length: Literal[0] = 0
    projector: Literal[False] = False
    lm_head: Literal[False] = False
    reparametrisation: None = None

    def _needs_something(self) -> bool:
        return False


class BaselineConfig(M2ptConfig):
    """`passepartout train baseline`: M²PT's loop, data and optimiser over something else."""

    learns: Learns = Field(description="kind: lora (with rank), prompt_tuning (with length) or full")
    m2pt: _NoPrompts = Field(default_factory=_NoPrompts, description="what of it every job is told")
    shard: Literal[False] = False
    metric: Literal["loss"] = "loss"
