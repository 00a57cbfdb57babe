"""`canary.json`: a few inputs of a bundle with the first-token logprobs that its trainer saw.

An engine that serves the bundle must find them again: a wrong base model, a wrong mode, another chat template
or a broken injection shows before a user meets it. The file is optional. It names the digest it was made for
and is no part of it: of the same tensors a canary may come, go, or be made again.
"""

import base64
import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from PIL import Image
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from prompts.errors import PictureError
from prompts.faults import fault, shown, validation_faults
from prompts.jsonfile import parse_json
from prompts.manifest import BaseModelRef, Manifest, Part
from prompts.picture import decode_picture

__all__ = [
    "CANARY_FILE",
    "MAX_CANARY_BYTES",
    "MAX_INPUTS",
    "Canary",
    "CanaryInput",
    "Dtype",
    "ImageRows",
    "canary_faults",
    "read_canary",
]

CANARY_FILE = "canary.json"
MAX_CANARY_BYTES = 8 << 20
MAX_INPUTS = 16
_MAX_PIXELS = 4_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_SURPLUS = 1e-3  # of probabilities in float, over 1

Token = Annotated[int, Field(ge=0, lt=2**31)]
Logprob = Annotated[float, Field(ge=-1e6, le=1e-4)]
"""At most that of a probability of 1 as float arithmetic has it."""
Dtype = Literal["float32", "bfloat16", "float16"]


class ImageRows(Part):
    """How a picture stands in a prompt: `rows` times the id `token`, learned vision rows included."""

    token: Token
    rows: Annotated[int, Field(ge=1, le=65536)]


class CanaryInput(Part):
    """One input and the trainer's first token.

    `question`, `picture` (a PNG in base64, or None): what a user's message holds; the bundle's usage is put
    around it as the server does. `prompt`: the ids the trainer saw of it, a picture being one id and the
    learned rows left out. `tokens`, `logprobs`: the likeliest first tokens, the best one first; natural
    logarithms over the whole vocabulary, before choices mask any.
    """

    question: Annotated[str, StringConstraints(max_length=65536)]
    picture: str | None
    prompt: Annotated[tuple[Token, ...], Field(min_length=1, max_length=65536)]
    tokens: Annotated[tuple[Token, ...], Field(min_length=2, max_length=128)]
    logprobs: tuple[Logprob, ...]

    @field_validator("picture")
    @classmethod
    def _is_a_png(cls, picture: str | None) -> str | None:
        if picture is not None:
            _decode(picture)
        return picture

    @model_validator(mode="after")
    def _ranks_tokens(self) -> Self:
        came = None
        if len(self.logprobs) != len(self.tokens):
            came = f"{len(self.logprobs)} for {len(self.tokens)} tokens"
        elif len(set(self.tokens)) < len(self.tokens):
            came = "a token twice"
        elif any(after > before for before, after in zip(self.logprobs, self.logprobs[1:], strict=False)):
            came = "a better token after a worse one"
        elif sum(map(math.exp, self.logprobs)) > 1 + _SURPLUS:
            came = "probabilities of more than 1 together"
        if came is not None:
            raise ValueError(
                f"expected one logprob for each token, falling, came {came}; make the canary again"
            )
        return self

    @property
    def png(self) -> bytes | None:
        """The picture's file."""
        return None if self.picture is None else base64.b64decode(self.picture)

    def expanded(self, image: ImageRows | None) -> list[int]:
        """`prompt` with a picture's one id as often as the language model has rows of it."""
        ids: list[int] = []
        for token in self.prompt:
            ids += [token] * (image.rows if image is not None and token == image.token else 1)
        return ids


class Canary(Part):
    """The whole of `canary.json`.

    `digest`: of the bundle it was made with; `base_model`: where it was made, and the one model it holds for
    (a frame serves others too); `dtype`: what the trainer computed in; `image`: None where no input has a
    picture.
    """

    format: Literal[1] = 1
    digest: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    base_model: BaseModelRef
    dtype: Dtype
    image: ImageRows | None
    inputs: Annotated[tuple[CanaryInput, ...], Field(min_length=1, max_length=MAX_INPUTS)]

    @model_validator(mode="after")
    def _has_its_pictures(self) -> Self:
        for number, one in enumerate(self.inputs, start=1):
            came = 0 if self.image is None else one.prompt.count(self.image.token)
            if came != (one.picture is not None):
                wanted = "one image token" if one.picture is not None else "no image token"
                raise ValueError(f"input {number}: expected {wanted} in prompt, came {came}; make it again")
        return self

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=1) + "\n"


def read_canary(data: bytes, faults: list[str]) -> Canary | None:
    """Return the canary of a file's bytes; None where it is faulty, with each fault added to `faults`."""
    found: list[str] = []
    try:
        parse_json(data, source=CANARY_FILE, faults=found)
        canary = Canary.model_validate_json(data)
    except ValidationError as error:
        found += validation_faults(error, source=CANARY_FILE)
    except (ValueError, RecursionError) as error:
        cure = "correct the file"
        found.append(fault(CANARY_FILE, expected="JSON in UTF-8", came=shown(str(error)), cure=cure))
    faults += found
    return None if found else canary


def canary_faults(canary: Canary, manifest: Manifest, digest: str) -> list[str]:
    """Return why this canary is none of that bundle: other tensors, another base, inputs it cannot take."""
    cure = "make it again with `passepartout task canary`, or remove the file"
    faults = []
    if canary.digest != digest:
        expected, came = f"{digest} (this bundle)", canary.digest
        faults.append(fault(f"{CANARY_FILE}: digest", expected=expected, came=came, cure=cure))
    base = manifest.base_model
    for name in ("architecture", "fingerprint") if base is not None else ():
        expected, came = getattr(base, name), getattr(canary.base_model, name)
        if expected != came:
            field = f"{CANARY_FILE}: base_model.{name}"
            faults.append(fault(field, expected=f"{expected} (this bundle)", came=came, cure=cure))
    without = _without_picture(canary.inputs)
    if not manifest.prompt_length and without:
        field, expected = f"{CANARY_FILE}: inputs", "a picture in each (the task acts on pictures alone)"
        faults.append(fault(field, expected=expected, came=f"none in input {without[0]}", cure=cure))
    return faults


def _without_picture(inputs: Sequence[CanaryInput]) -> list[int]:
    return [number for number, one in enumerate(inputs, start=1) if one.picture is None]


def _decode(picture: str) -> Image.Image:
    cure = "make the canary again"
    try:
        data = base64.b64decode(picture, validate=True)
    except ValueError as error:
        raise ValueError(f"expected a PNG in base64, came other text; {cure}") from error
    if not data.startswith(_PNG):
        raise ValueError(f"expected a PNG in base64, came other bytes; {cure}")
    try:
        return decode_picture(data, max_pixels=_MAX_PIXELS)
    except PictureError as error:
        raise ValueError(str(error)) from error
