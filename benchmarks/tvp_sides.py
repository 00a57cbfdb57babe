"""The sides of `tvp-steps`: our trainer's step, and loops written plainly with transformers and torch."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.sides import Step, Told
from prompts.frame import fit_picture, frame_mask
from prompts.manifest import FrameSpec
from training.config import TvpConfig
from training.data import Example
from training.losses import CAPTION
from training.pico.tasks import PicoSource

__all__ = ["SIDES"]

_FRAME = FrameSpec()
_LAMBDAS = (0.005, 0.001)
_LR = 10.0


def _examples(told: Told) -> list[Example]:
    source = PicoSource("kind", "train", told.examples, 0)
    return [source[index] for index in range(told.examples)]


def _batches(told: Told) -> Iterator[list[int]]:
    """Places of each step's examples, in turn, for ever."""
    number = 0
    while True:
        yield [(number * told.batch + place) % told.examples for place in range(told.batch)]
        number += 1


def _trainer(told: Told, *, repeating: bool) -> Step:
    """The trainer's own step, on batches that its own code makes.

    `repeating`: it knows that the pictures come again, as in an epoch after the first.
    """
    from training.backbone import load_backbone
    from training.clean import CleanFeatures
    from training.losses import Judge
    from training.reading import Seat
    from training.tvp import Pupil, batch_maker, descend, losses

    config = TvpConfig.model_validate(
        {
            "name": "steps",
            "model": told.model,
            "out": Path("."),
            "data": {"kind": "pico", "task": "kind", "size": told.examples},
            "steps": 1,
            "batch": told.batch,
            "dtype": told.dtype,
            "tvp": {"clip": told.model / "clip", "random_crop": False, "flip": False},
        }
    )
    backbone = load_backbone(told.model, dtype=told.dtype)
    pupils = [Pupil(backbone, CleanFeatures(backbone, told.examples if repeating else None))]
    judge = Judge(told.model / "clip", backbone.device)
    examples, batches, mask = _examples(told), _batches(told), frame_mask(_FRAME)
    make = batch_maker(config, pupils, lambda _: [Seat(place, examples[place]) for place in next(batches)])
    delta = torch.zeros(3, *_FRAME.canvas)

    def step() -> float:
        nonlocal delta
        delta.requires_grad_(True)
        found = losses(pupils, judge, make(0), delta, config.tvp)
        (gradient,) = torch.autograd.grad(found["loss"], delta)
        delta = descend(delta.detach(), gradient, mask, lr=_LR, frame=_FRAME)
        return found["loss"].item()

    return step


def _loop(told: Told, *, dtype: torch.dtype, frozen: bool) -> Step:
    """Written from the paper: nothing is kept from one step to the next but the frame."""
    from transformers import (
        AutoImageProcessor,
        AutoProcessor,
        AutoTokenizer,
        CLIPModel,
        LlavaForConditionalGeneration,
    )

    model = LlavaForConditionalGeneration.from_pretrained(told.model, dtype=dtype).eval()
    processor = AutoProcessor.from_pretrained(told.model)
    clip = CLIPModel.from_pretrained(told.model / "clip").eval()
    captions = AutoTokenizer.from_pretrained(told.model / "clip")
    clip_pixels = AutoImageProcessor.from_pretrained(told.model / "clip")
    for part in (model, clip) if frozen else ():
        part.requires_grad_(False)
    examples, batches, mask = _examples(told), _batches(told), frame_mask(_FRAME)
    delta = torch.zeros(3, *_FRAME.canvas, requires_grad=True)

    def pixels(process: Any, canvas: Tensor) -> Tensor:
        made: Tensor = process(list(canvas), do_rescale=False, return_tensors="pt")["pixel_values"]
        return made

    def features(canvas: Tensor) -> Tensor:
        seen = model.get_image_features(pixels(processor.image_processor, canvas).to(dtype)).pooler_output
        return torch.stack(list(seen))

    def step() -> float:
        chosen = [examples[place] for place in next(batches)]
        canvas = torch.stack([fit_picture(one.picture, _FRAME) for one in chosen if one.picture])
        framed = canvas + delta
        inputs, labels = _requests(processor, chosen)
        output = model(
            **inputs, pixel_values=pixels(processor.image_processor, framed).to(dtype), labels=labels
        )
        with torch.no_grad():
            clean = features(canvas)
        fca = (features(framed) - clean).float().norm(dim=-1).mean()
        said = [CAPTION.format(answer=one.answer) for one in chosen]
        asked = captions(said, padding=True, return_tensors="pt")
        asked.pop("token_type_ids", None)
        texts = F.normalize(clip.get_text_features(**asked).pooler_output, dim=-1)
        seen = F.normalize(clip.get_image_features(pixels(clip_pixels, framed)).pooler_output, dim=-1)
        tse = clip.logit_scale.clamp(max=4.6052).exp() * (texts * seen).sum(-1).mean()
        loss = output.loss + _LAMBDAS[0] * fca - _LAMBDAS[1] * tse
        loss.backward()
        with torch.no_grad():
            assert delta.grad is not None
            delta.sub_(_LR * delta.grad / (delta.grad.norm() + 1e-10) * mask)
            delta.grad = None
        model.zero_grad()
        clip.zero_grad()
        return loss.item()

    return step


def _requests(processor: Any, chosen: list[Example]) -> tuple[dict[str, Tensor], Tensor]:
    """Padded ids of questions with answers, and labels on the answers alone."""
    tokenizer = processor.tokenizer
    texts, starts = [], []
    for one in chosen:
        content = [{"type": "image"}, {"type": "text", "text": one.question}]
        asked = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        expanded = asked.replace(processor.image_token, processor.image_token * 64)
        starts.append(len(tokenizer(expanded, add_special_tokens=False).input_ids))
        texts.append(expanded + one.answer + tokenizer.eos_token)
    tokenizer.padding_side = "right"
    encoded = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
    for row, start in enumerate(starts):
        labels[row, :start] = -100
    return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}, labels


def _plain(told: Told) -> Step:
    return _loop(told, dtype=torch.float32, frozen=False)


def _careful(told: Told) -> Step:
    from training.backbone import choose_device, choose_dtype

    return _loop(told, dtype=choose_dtype(told.dtype, choose_device("cpu")), frozen=True)


SIDES: dict[str, Callable[[Told], Step]] = {
    "trainer": partial(_trainer, repeating=True),
    "trainer, first epoch": partial(_trainer, repeating=False),
    "plain": _plain,
    "careful": _careful,
}
"""What is measured, by name."""
