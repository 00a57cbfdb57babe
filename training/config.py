"""What a training or evaluation job is told: a YAML file, checked whole, with `--set a.b=value` on top.

Unknown keys are refused and every fault is reported at once. Defaults stand here and nowhere else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prompts.canary import MAX_INPUTS
from prompts.deep import LayerChoice
from prompts.errors import ConfigError
from prompts.faults import fault, shown, validation_faults
from prompts.manifest import FrameSpec, Name, Usage, Version
from training.data import DataConfig

__all__ = [
    "Dtype",
    "EvaluateConfig",
    "How",
    "LossOver",
    "M2ptConfig",
    "M2ptOptions",
    "TrainConfig",
    "TvpConfig",
    "TvpOptions",
    "read_config",
]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Dtype = Literal["auto", "float32", "bfloat16"]
LossOver = Literal["vocabulary", "choices"]
How = Literal["ranking", "structured", "generation"]
Init = Literal["xavier", "vocabulary", "text", "bundle"]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainConfig(_Config):
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
        "usage.choices, as at serving",
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
        if self.loss_over == "choices" and len(self.usage.choices or ()) < 2:
            raise ValueError(
                f"loss_over: expected two usage.choices at least, came {len(self.usage.choices or ())}; "
                "list them, or set loss_over: vocabulary"
            )
        return self

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle is written."""
        return self.bundle or self.out / "bundle"


class TvpOptions(_Config):
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


class M2ptOptions(_Config):
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
        if not (self.text_length or self.vision_length or self.projector):
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


class EvaluateConfig(_Config):
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


Config = TypeVar("Config", bound=BaseModel)


def read_config(kind: type[Config], file: Path, settings: Sequence[str] = ()) -> Config:
    """A config from a YAML file and `key.path=value` settings (values are YAML too).

    Raises:
        ConfigError: with every fault: no such file, not YAML, a setting that is none, fields that do not fit.
    """
    raw, faults = _read_yaml(file)
    is_readable = not faults
    for setting in settings:
        faults += _put(raw, setting)
    try:
        config = kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(file, faults + (validation_faults(error) if is_readable else [])) from error
    if faults:
        raise ConfigError(file, faults)
    return config


def _read_yaml(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The file's mapping, and what is wrong with it."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        came, cure = error.strerror or "none", "correct the path given to --config"
        return {}, [fault("--config", expected="a readable YAML file", came=came, cure=cure)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return {}, [fault("--config", expected="YAML", came=str(error), cure="correct the file")]
    if not isinstance(raw, dict):
        came, cure = type(raw).__name__, "write `key: value` lines"
        return {}, [fault("--config", expected="a mapping", came=came, cure=cure)]
    return raw, []


def _put(raw: dict[str, Any], setting: str) -> list[str]:
    """Puts `part.key=value` into `raw`, or says what is wrong with it."""
    path, equals, text = setting.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        cure = "write --set key=value or --set part.key=value"
        return [fault("--set", expected="KEY=VALUE", came=shown(setting), cure=cure)]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return [fault(f"--set {path}", expected="a YAML value", came=shown(text), cure="quote it")]
    place = raw
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            expected, cure = f"{parent} to have parts", "correct the key"
            return [fault(f"--set {path}", expected=expected, came=shown(inner), cure=cure)]
        place = inner
    place[last] = value
    return []
