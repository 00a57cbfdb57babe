"""Makes a bundle's canary: a few examples, and what the trainer's own forward pass says first to each.

Pictures are shrunk to the tower's size and kept as PNG; the pass is made with the picture as it is kept.
"""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from prompts.bundle import Bundle
from prompts.canary import MAX_INPUTS, Canary, CanaryInput, Dtype, ImageRows
from prompts.contents import DTYPES as STORED_DTYPES
from prompts.errors import ConfigError, PictureError, RecordError
from prompts.faults import fault
from prompts.fingerprint import base_model_ref, read_dtypes
from training.backbone import DTYPES, NO_PROMPTS, DeepPrompts, LlavaBackbone
from training.data import Example, ExampleSource, ExampleStream
from training.decoding import first_log_probs
from training.evaluate import picture_features

__all__ = ["TOKENS_KEPT", "canary_examples", "in_float32", "make_canary"]

TOKENS_KEPT = 32
"""First tokens that are written down of each input."""


def make_canary(backbone: LlavaBackbone, bundle: Bundle, examples: Sequence[Example], model: Path) -> Canary:
    """What `backbone`, loaded from the folder `model`, says to `examples` under `bundle`.

    Raises:
        BaseModelError: `model` is no checkpoint.
        ConfigError: no examples, or texts that the chat template or the tokenizer does not take.
        PictureRequiredError: an example without a picture, and a bundle that only has a frame.
        UnsupportedError: the bundle has a prefix of keys and values.
    """
    if not examples:
        cure = "give data with pictures, or set canary: 0"
        raise ConfigError("canary", [fault("examples", expected="one or more", came="none", cure=cure)])
    inputs = tuple(_make_input(backbone, bundle, example) for example in examples)
    has_pictures = any(one.picture for one in inputs)
    rows = backbone.image_rows(bundle.manifest.vision)
    return Canary(
        digest=bundle.digest,
        base_model=base_model_ref(model),
        dtype=_dtype_name(backbone),
        image=ImageRows(token=backbone.chat.image_token_id, rows=rows) if has_pictures else None,
        inputs=inputs,
    )


@contextmanager
def in_float32(backbone: LlavaBackbone, model: Path) -> Iterator[None]:
    """While open the backbone, loaded from the folder `model`, computes in float32 if it can.

    A canary made so tells an engine's faults from its rounding best. It can where the checkpoint's weights
    are what the backbone holds (not rounded when they were loaded, nor shared out over processes) and where
    its device has the memory.
    The weights are the same before and after.

    Raises:
        BaseModelError: `model` is no checkpoint.
    """
    own = backbone.dtype
    if backbone.is_shared:
        yield
        return
    if all(STORED_DTYPES.get(name) == own for name in read_dtypes(model)):
        with suppress(torch.OutOfMemoryError):
            _cast(backbone, torch.float32)
        if any(weight.dtype != torch.float32 for weight in backbone.model.parameters()):
            _cast(backbone, own)
    try:
        yield
    finally:
        _cast(backbone, own)


def _cast(backbone: LlavaBackbone, dtype: torch.dtype) -> None:
    """Parameters alone: a model's buffers (rotary frequencies) are float32 whatever its dtype."""
    for weight in backbone.model.parameters():
        weight.data = weight.data.to(dtype)
    backbone.dtype = dtype


def canary_examples(data: ExampleSource | ExampleStream, count: int, *, with_picture: bool) -> list[Example]:
    """`count` examples at most, spread over a source or the first of a stream; broken ones are passed over.

    With a picture in each where that is asked for.
    """
    count = min(count, MAX_INPUTS)
    opened = map(_whole, _openers(data, count))
    return [one for one in opened if one is not None and (one.picture is not None or not with_picture)]


def _openers(data: ExampleSource | ExampleStream, count: int) -> Iterator[Callable[[], Example]]:
    if isinstance(data, ExampleStream):
        return islice(data.rows(seed=0, epoch=0), count)
    count = min(count, len(data))
    return (partial(data.__getitem__, index * len(data) // count) for index in range(count))


def _whole(opener: Callable[[], Example]) -> Example | None:
    with suppress(PictureError, RecordError):
        return opener()
    return None


def _make_input(backbone: LlavaBackbone, bundle: Bundle, example: Example) -> CanaryInput:
    picture = None if example.picture is None else _shrunk(example.picture, _tower_side(backbone))
    kept = Example(picture, example.question, example.answer)
    prompt = backbone.encode_example(kept, bundle.manifest.usage).prompt
    best = _log_probs(backbone, bundle, kept, prompt).topk(TOKENS_KEPT)
    return CanaryInput(
        question=example.question,
        picture=None if picture is None else _png(picture),
        prompt=prompt,
        tokens=tuple(best.indices.tolist()),
        logprobs=tuple(round(value, 6) for value in best.values.tolist()),
    )


def _log_probs(backbone: LlavaBackbone, bundle: Bundle, example: Example, prompt: tuple[int, ...]) -> Tensor:
    """Of the first token after `prompt`, (vocabulary,) float32."""
    deep = DeepPrompts.of_bundle(bundle, backbone.device) if bundle else NO_PROMPTS
    features = picture_features(backbone, [example], bundle, deep)
    return first_log_probs(backbone, [prompt], features=features, deep=deep)[0].cpu()


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    """RGB, no side longer than `side` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    return small


def _png(picture: Image.Image) -> str:
    """The file in base64."""
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")


def _tower_side(backbone: LlavaBackbone) -> int:
    return int(backbone.config.vision_config.image_size)


def _dtype_name(backbone: LlavaBackbone) -> Dtype:
    names: dict[torch.dtype, Dtype] = {DTYPES[name]: name for name in ("float32", "bfloat16", "float16")}
    return names[backbone.dtype]
