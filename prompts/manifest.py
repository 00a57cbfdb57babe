"""`bundle.json`: the typed manifest of a bundle, format 1.

Axis names used throughout the project: H, W canvas height and width in pixels; L, P, d layers, prompt length
and hidden size of the language model; L_v, P_v, d_v the same of the vision encoder.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from prompts.faults import fault

__all__ = [
    "NAME_PATTERN",
    "TEXT_FIELD",
    "BaseModelRef",
    "FrameSpec",
    "Manifest",
    "Part",
    "PrefixSpec",
    "Provenance",
    "TextSpec",
    "Usage",
    "VisionSpec",
    "lacking_part",
]

TEXT_FIELD = "{text}"
"""Where a template takes the user's text."""

NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Layers = Annotated[int, Field(ge=1, le=1024)]
Length = Annotated[int, Field(ge=1, le=4096)]
Hidden = Annotated[int, Field(ge=1, le=65536)]
LayerIndex = Annotated[int, Field(ge=0, le=1023)]


def _is_none(value: object) -> bool:
    """Fields younger than format 1 are written only where they say something: digests stay as they were."""
    return value is None


class Part(BaseModel):
    """Unknown keys refused, values immutable, no silent conversion (a "10" is no 10), no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseModelRef(Part):
    """The checkpoint a prompt was trained in.

    `architecture`: first of `architectures` in its config.json; `fingerprint`: see `prompts.fingerprint`;
    `id`: a name for people, checked nowhere.
    """

    architecture: Line
    fingerprint: Fingerprint
    id: Line | None = None


class FrameSpec(Part):
    """Geometry of a TVP frame: an `inner` × `inner` picture in the middle of `canvas` = (H, W), in pixels.

    `free`: where `delta` may differ from zero: on the `border` around the picture (TVP, EVP), or on `all` of
    the canvas, the picture included (VP, a perturbation of the whole image).
    """

    canvas: Annotated[tuple[Pixels, Pixels], Field(strict=False)] = (224, 224)
    inner: Pixels = 164
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    value_range: Literal["unbounded", "unit"] = "unbounded"
    combine: Literal["add"] = "add"
    free: Literal["border", "all"] = Field(default="border", exclude_if=lambda value: value == "border")

    @model_validator(mode="after")
    def _keeps_to_the_border_in_the_unit_range(self) -> Self:
        if self.free == "all" and self.value_range == "unit":
            raise ValueError(
                "expected value_range unbounded where free is all, came unit; a sum with the picture's own "
                "pixels would leave the range: keep to the border, or to unbounded"
            )
        return self

    @model_validator(mode="after")
    def _leaves_a_border(self) -> Self:
        if self.inner > min(self.canvas) or (self.inner == max(self.canvas) and self.free == "border"):
            raise ValueError(
                f"expected inner to fit canvas {self.canvas} and leave a border, came {self.inner}; "
                "make inner smaller or the canvas larger"
            )
        return self


class _DeepSpec(Part):
    """Prompts for an encoder of `layers` layers and width `hidden`: (len(layer_indices), length, hidden).

    `at`: the layers that have prompts of their own, ascending; None for all. At a layer left out the prompt
    tokens go on as the layer before left them: with `at` [0] this is plain prompt tuning. Where layer 0 is
    left out they enter as zeros.
    """

    layers: Layers
    length: Length
    hidden: Hidden
    at: Annotated[tuple[LayerIndex, ...], Field(min_length=1, strict=False)] | None = Field(
        default=None, exclude_if=_is_none
    )

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """The layers that have prompts of their own."""
        return tuple(range(self.layers)) if self.at is None else self.at

    @model_validator(mode="after")
    def _names_layers_in_order(self) -> Self:
        at = self.layer_indices
        if at[-1] >= self.layers or list(at) != sorted(set(at)):
            raise ValueError(
                f"expected at to ascend to at most {self.layers - 1}, came {list(at)}; name each layer once, "
                "in order"
            )
        return self


class TextSpec(_DeepSpec):
    """`text.prompts` is (len(layer_indices), length, hidden), for all layers (L, P, d)."""


class VisionSpec(_DeepSpec):
    """`vision.prompts` is (len(layer_indices), length, hidden), for all layers (L_v, P_v, d_v).

    `mode` says what the language model gets: `released` (prompt rows 1.., CLS and the patches, as M²PT's
    public code does) or `paper` (the patches alone). It has no default: the token counts differ.
    """

    mode: Literal["released", "paper"]


class PrefixSpec(Part):
    """Keys and values in front of the text at every layer, as the attention sees them (after rotary).

    `prefix.keys` and `prefix.values` are (layers, length, kv_heads · head_dim), those of the whole model.
    """

    layers: Layers
    length: Length
    kv_heads: Annotated[int, Field(ge=1, le=1024)]
    head_dim: Annotated[int, Field(ge=1, le=4096)]

    @property
    def width(self) -> int:
        """Width of one token's keys at one layer."""
        return self.kv_heads * self.head_dim


class Usage(Part):
    """How the task wants to be asked. `template` holds `{text}` once: the user's text goes there."""

    system: str | None = None
    template: str | None = None
    choices: Annotated[tuple[Line, ...], Field(min_length=1, strict=False)] | None = None

    @field_validator("template")
    @classmethod
    def _has_one_field(cls, template: str | None) -> str | None:
        if template is not None and template.count(TEXT_FIELD) != 1:
            raise ValueError(
                f"expected {TEXT_FIELD} exactly once, came {template.count(TEXT_FIELD)} times; "
                f"put {TEXT_FIELD} where the user's text goes"
            )
        return template

    @field_validator("choices")
    @classmethod
    def _are_distinct(cls, choices: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if choices is not None and len(set(choices)) != len(choices):
            twice = sorted({one for one in choices if choices.count(one) > 1})
            raise ValueError(f"expected distinct answers, came {twice[:5]} twice; remove the doubles")
        return choices

    def render(self, text: str) -> str:
        """Return the user's `text` put into the template, or as it is where there is none."""
        return text if self.template is None else self.template.replace(TEXT_FIELD, text)


class Provenance(Part):
    """Where the prompt comes from; never part of the digest.

    `examples`: what was read of the data, where there is something to say: parts of a mix, what was broken.
    """

    method: str | None = None
    data: JsonValue = None
    examples: dict[str, JsonValue] | None = Field(default=None, exclude_if=_is_none)
    seed: int | None = None
    config: dict[str, JsonValue] = {}
    libraries: dict[str, str] = {}
    commit: str | None = None
    created: str | None = None


class Manifest(Part):
    """The whole of `bundle.json`."""

    format: Literal[1] = 1
    name: Name
    version: Version
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    base_model: BaseModelRef | None = None
    frame: FrameSpec | None = None
    text: TextSpec | None = None
    prefix: PrefixSpec | None = Field(default=None, exclude_if=_is_none)
    vision: VisionSpec | None = None
    projector: bool = False
    lm_head: bool = False
    usage: Usage = Usage()
    provenance: Provenance = Provenance()
    metrics: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.text is not None and self.prefix is not None:
            cure = "save two bundles: each takes the first positions of the text"
            raise ValueError(fault("prefix", expected="null beside text", came="both", cure=cure))
        lacking = lacking_part(dict(self))
        if lacking is not None:
            raise ValueError(lacking)
        return self

    @property
    def prompt_length(self) -> int:
        """Tokens that a request gets in front of its text: of the text prompts, or of the prefix."""
        part = self.text or self.prefix
        return 0 if part is None else part.length

    def served_fields(self) -> dict[str, JsonValue]:
        """Return what decides an answer, as JSON: the part of the manifest that the digest covers."""
        dump: dict[str, JsonValue] = self.model_dump(
            mode="json",
            include={"format", "frame", "text", "prefix", "vision", "projector", "lm_head", "usage"},
        )
        base = self.base_model
        dump["base_model"] = None if base is None else [base.architecture, base.fingerprint]
        return dump


def lacking_part(parts: Mapping[str, object]) -> str | None:
    """Return the fault of a manifest whose parts do not make a whole, or None.

    `parts`: the keys of a manifest, as values of any kind (a file's raw JSON too).
    """
    inside = [part for part in ("text", "prefix", "vision", "projector", "lm_head") if parts.get(part)]
    if inside and not parts.get("base_model"):
        return fault(
            "base_model",
            expected=f"{{architecture, fingerprint, id}} (the bundle carries {', '.join(inside)})",
            came="null",
            cure="name the model it was trained in",
        )
    if not inside and parts.get("frame") is None:
        return fault(
            "frame, text, prefix, vision, projector, lm_head",
            expected="at least one",
            came="none",
            cure="a bundle carries something learned",
        )
    return None
