"""What M²PT is told."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from prompts.deep import LayerChoice
from training.config.base import Settings, TrainConfig

__all__ = ["M2ptConfig", "M2ptOptions"]

Init = Literal["xavier", "vocabulary", "text", "bundle"]


class M2ptOptions(Settings):
    """M²PT's own settings. A length of 0 leaves that side alone."""

    text_length: int = Field(10, ge=0, description="P_t, learned rows before the first token")
    vision_length: int = Field(10, ge=0, description="P_v, learned rows before the class row")
    text_layers: LayerChoice = Field(
        "all",
        description="decoder layers with rows of their own: all, first, odd (1st, 3rd, …), top_half (the "
        "half next to the output), or numbers from 0",
    )
    vision_layers: LayerChoice = Field("all", description="the same of the vision encoder")
    mode: Literal["released", "paper"] = Field("released", description="what the language model gets of P_v")
    projector: bool = Field(True, description="train the projector further")
    lm_head: bool = Field(
        False,
        description="train the output layer too, as the released script does: vocabulary · hidden values, "
        "131 million (262 MB in the bundle) on a 7B model",
    )
    init: Init = Field(
        "xavier",
        description="first values: xavier (the paper's), vocabulary (text rows: the hidden states of random "
        "tokens), text (those of init_text), bundle (those of init_bundle)",
    )
    init_text: str | None = Field(
        None, min_length=1, description="begin as if this text stood before the conversation; sets init: text"
    )
    init_bundle: Path | None = Field(
        None, description="begin with this bundle's values (of the same shapes); sets init: bundle"
    )
    reparametrisation: int | None = Field(
        None,
        ge=1,
        description="learn the rows through a two-layer MLP of this hidden width, folded away in the bundle "
        "(default: as they are)",
    )
    vision_lr: float | None = Field(None, gt=0, description="the vision prompts' learning rate (default: lr)")
    projector_lr: float | None = Field(None, gt=0, description="its own learning rate (default: lr)")
    lm_head_lr: float | None = Field(None, gt=0, description="its own learning rate (default: lr)")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's")
    max_gradient_norm: float = Field(1.0, gt=0, description="longer gradients are scaled down to it")
    max_length: int = Field(1024, ge=1, description="rows of an example, prompts included; answers are cut")
    group_by_length: bool = Field(
        False, description="put examples of similar length into a batch, so that little of it is padding"
    )

    @field_validator("text_layers", "vision_layers")
    @classmethod
    def _ascends(cls, layers: LayerChoice) -> LayerChoice:
        if not isinstance(layers, str) and list(layers) != sorted(set(layers)):
            raise ValueError(
                f"expected each layer once, in order, came {list(layers)}; write {sorted(set(layers))}"
            )
        return layers

    @model_validator(mode="before")
    @classmethod
    def _implies_init(cls, given: Any) -> Any:
        """A text or a bundle to begin from says where to begin."""
        if isinstance(given, dict) and given.get("init") is None:
            named = [name for name in ("text", "bundle") if given.get(f"init_{name}") is not None]
            given = {name: value for name, value in given.items() if name != "init"}
            return {**given, "init": named[0]} if named else given
        return given

    @model_validator(mode="after")
    def _begins_somewhere(self) -> "M2ptOptions":
        for name in ("text", "bundle"):
            source = getattr(self, f"init_{name}")
            if (self.init == name) != (source is not None):
                came = f"init: {self.init}" + (" without it" if source is None else " beside it")
                raise ValueError(
                    f"expected init_{name} with init: {name} alone, came {came}; give both or neither"
                )
        if self.init in ("text", "vocabulary") and not self.text_length:
            raise ValueError(f"expected a text_length for init: {self.init}, came 0; raise it")
        return self

    @model_validator(mode="after")
    def _learns_something(self) -> "M2ptOptions":
        if self._needs_something() and not (self.text_length or self.vision_length or self.projector):
            raise ValueError(
                "expected something to learn, came text_length 0, vision_length 0, projector false; "
                "enable one"
            )
        if self.lm_head and not self.text_length:
            raise ValueError(
                "expected a text_length beside lm_head, came 0; a server knows a task's requests by their "
                "prompt tokens, raise it"
            )
        if self.reparametrisation and not (self.text_length or self.vision_length):
            raise ValueError(
                "expected prompts for reparametrisation, came lengths of 0; raise one, or leave it out"
            )
        return self

    def _needs_something(self) -> bool:
        return True


class M2ptConfig(TrainConfig):
    """`passepartout train m2pt`."""

    lr: float = Field(7e-4, gt=0, description="peak learning rate of AdamW")
    gradient_checkpointing: bool = Field(
        False, description="keep the layers' inputs alone for the way back: less memory, half more time"
    )
    shard: bool = Field(
        False, description="under torchrun: each process keeps a part of the frozen language model (FSDP)"
    )
    validate_every: int | None = Field(
        None,
        ge=1,
        description="steps between looks at `validation`; the best values are kept (default: the last ones)",
    )
    metric: Literal["loss", "accuracy"] = Field("loss", description="what is looked at, and best")
    patience: int | None = Field(
        None, ge=1, description="looks in a row without a better one that end the job (default: none do)"
    )
    m2pt: M2ptOptions = Field(default_factory=M2ptOptions)

    @model_validator(mode="after")
    def _loses_over_tokens(self) -> "M2ptConfig":
        if self.loss_over == "ranking":
            raise ValueError(
                "loss_over: expected vocabulary or choices, came ranking; M²PT learns token by token, "
                "a ranking is for frames"
            )
        return self

    @model_validator(mode="after")
    def _can_look(self) -> "M2ptConfig":
        if self.validate_every is not None and self.validation is None:
            raise ValueError(
                "validation: expected data for validate_every, came none; name some, or leave it out"
            )
        if self.validate_every is None and self.patience is not None:
            raise ValueError(
                "validate_every: expected steps for patience, came none; set it, or leave it out"
            )
        return self
