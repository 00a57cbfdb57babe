"""TVP: a learned frame of pixels around the picture, trained through one frozen model or several.

Per step: g = gradient of L with respect to the frame; g ← g / (‖g‖₂ + 1e-10) over the whole tensor, masked
to where the frame is free; delta ← delta − lr · g. L = L_task + λ₁ · FCA − λ₂ · TSE (`losses.py`); of several
models the mean of their L_task and FCA. The paper lowers the learning rate by a cosine per epoch; here it is
per step, since jobs are counted in steps.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from prompts.bundle import Bundle, compute_digest
from prompts.errors import ConfigError
from prompts.faults import fault, shown
from prompts.frame import apply_frame, fit_picture, frame_mask, resized_size
from prompts.manifest import FrameSpec, Manifest
from training.backbone import Backbone, load_backbone
from training.batches import prepared
from training.chat import Encoded
from training.clean import CleanFeatures, View
from training.config import TvpConfig, TvpOptions
from training.data import Example, ExampleStream
from training.losses import JUDGES, Judge, feature_consistency, ranking_loss
from training.preflight import Inputs, open_training
from training.provenance import provenance
from training.reading import Seat, open_reader
from training.run import Run
from training.saving import save_trained
from training.schedule import cosine_rate

__all__ = ["Batch", "Pupil", "batch_maker", "descend", "losses", "train_tvp", "views_that_repeat"]

_TINY = 1e-10


@dataclass(frozen=True)
class Pupil:
    """One of the models that a frame is trained through, and its clean features."""

    backbone: Backbone
    clean: CleanFeatures


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees.

    Attributes:
        canvas: (B, 3, H, W) f32, pictures in the middle, nothing on the border yet.
        views: what of which example each shows.
        encoded: the requests with their answers, for each pupil its own.
        answers: as text.
        candidates: where the loss is over a ranking, for each pupil and example the choices' token ids, the
            answer first.
    """

    canvas: Tensor
    views: list[View]
    encoded: list[list[Encoded]]
    answers: list[str]
    candidates: list[list[list[tuple[int, ...]]]] | None = None


def train_tvp(config: TvpConfig) -> Bundle:
    """Trains a frame and writes its bundle; resumes a run of the same config.

    Raises:
        ConfigError: a path, the data or the resumed run does not fit the config, or too much of the data is
            broken.
        PictureError: a file of the validation data is no picture.
    """
    clip = config.tvp.clip if config.tvp.lambda_tse else None
    folders = {"model": config.model} | {f"tvp.also.{i}": f for i, f in enumerate(config.tvp.also)}
    checkpoints = [(field, folder, ()) for field, folder in folders.items()]
    judged = [("tvp.clip", clip, JUDGES)] if clip else []
    inputs = open_training(config, checkpoints=[*checkpoints, *judged], pictures=True)
    run = Run(config)
    saved = run.resume() or {"step": 0, "delta": torch.zeros(3, *config.tvp.frame.canvas)}
    reader = open_reader(
        inputs.data, batch=config.batch, seed=config.seed, max_broken_share=config.max_broken_share
    )
    reader.ledger.restore(saved.get("broken", ()))
    views = None
    if not isinstance(inputs.data, ExampleStream):
        views = views_that_repeat(config, len(inputs.data))
    backbones = [load_backbone(folder, dtype=config.dtype) for folder in folders.values()]
    pupils = [Pupil(backbone, CleanFeatures(backbone, views)) for backbone in backbones]
    device = pupils[0].backbone.device
    judge = Judge(clip, device) if clip else None
    delta, mask = saved["delta"].to(device), frame_mask(config.tvp.frame).to(device)
    make = batch_maker(config, pupils, reader.seats)
    passes = range(saved["step"] * config.accumulate, config.steps * config.accumulate)
    with (
        closing(prepared(make, passes)) as batches,
        closing(run.steps(saved["step"])) as steps,
    ):
        for step, bar in steps:
            lr = config.lr * cosine_rate(step, steps=config.steps, warmup=config.warmup)
            gradient, figures = torch.zeros_like(delta), dict[str, float]()
            delta.requires_grad_(True)
            for _ in range(config.accumulate):
                found = losses(pupils, judge, next(batches), delta, config.tvp)
                gradient += torch.autograd.grad(found["loss"], delta)[0] / config.accumulate
                for name, value in found.items():
                    figures[name] = figures.get(name, 0.0) + value.item() / config.accumulate
            delta = descend(delta.detach(), gradient, mask, lr=lr, frame=config.tvp.frame)
            read = (step + 1) * config.accumulate
            run.log(step, bar, **figures, lr=lr, **reader.figures(read))
            if run.is_due(step):
                run.save(step, {"delta": delta.cpu(), "broken": reader.ledger.state(read)})
                run.note_broken(reader.ledger.summary(read))
    run.finish()
    examples = reader.report(config.steps * config.accumulate)
    return _write_bundle(config, pupils[0].backbone, delta.cpu(), inputs, examples)


def descend(delta: Tensor, gradient: Tensor, mask: Tensor, *, lr: float, frame: FrameSpec) -> Tensor:
    """One normalised step of the frame (3, H, W); zero outside `mask`, in [0, 1] if the range is `unit`."""
    step = lr * gradient / (gradient.norm() + _TINY)
    moved = torch.where(mask, delta - step, 0.0)
    return moved.clamp(0.0, 1.0) if frame.value_range == "unit" else moved


def views_that_repeat(config: TvpConfig, size: int) -> int | None:
    """How many different views a run over `size` examples sees; None where hardly any comes twice."""
    views = size * (2 if config.tvp.flip else 1)
    shown = config.steps * config.accumulate * config.batch
    return views if not config.tvp.random_crop and shown > views else None


def losses(
    pupils: Sequence[Pupil], judge: Judge | None, batch: Batch, delta: Tensor, options: TvpOptions
) -> dict[str, Tensor]:
    """`loss` and the parts it is made of; a part of weight 0 is not computed."""
    canvas = batch.canvas.to(delta.device)
    framed = apply_frame(canvas, delta)
    tasks, consistencies = [], []
    for number, pupil in enumerate(pupils):
        backbone, encoded = pupil.backbone, batch.encoded[number]
        features = backbone.image_features(backbone.process_canvas(framed))
        if batch.candidates is None:
            tasks.append(backbone.answer_loss(backbone.collate(encoded, features), features))
        else:
            questions = [one.prompt for one in encoded]
            tasks.append(ranking_loss(backbone, questions, batch.candidates[number], features))
        if options.lambda_fca:
            clean = pupil.clean.rows(batch.views, canvas)
            consistencies.append(feature_consistency(features.rows, clean))
    loss = task = torch.stack(tasks).mean()
    parts = {"task": task}
    if consistencies:
        parts["fca"] = torch.stack(consistencies).mean()
        loss = loss + options.lambda_fca * parts["fca"]
    if judge is not None:
        parts["tse"] = judge.semantics(framed, batch.answers)
        loss = loss - options.lambda_tse * parts["tse"]
    return {"loss": loss, **parts}


def batch_maker(
    config: TvpConfig,
    pupils: Sequence[Pupil],
    seats: Callable[[int], Sequence[Seat]],
) -> Callable[[int], Batch]:
    """What makes the batch of a forward pass, from its number; `seats`: the examples that a pass sees."""
    over_choices = config.loss_over == "choices"

    def make(number: int) -> Batch:
        seated = seats(number)
        examples = [seat.example for seat in seated]
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
        views = [_view(seat.place, seat.example, config, generator) for seat in seated]
        canvas = torch.stack(
            [
                fit_picture(_picture(example), config.tvp.frame, crop=view.crop, flip=view.flip)
                for example, view in zip(examples, views, strict=True)
            ]
        )
        encoded = [
            [pupil.backbone.encode_example(e, config.usage, over_choices=over_choices) for e in examples]
            for pupil in pupils
        ]
        candidates = None
        if config.loss_over == "ranking":
            candidates = [[_candidates(pupil.backbone, e, config) for e in examples] for pupil in pupils]
        return Batch(canvas, views, encoded, [example.answer for example in examples], candidates)

    return make


def _candidates(backbone: Backbone, example: Example, config: TvpConfig) -> list[tuple[int, ...]]:
    """An example's choices as token ids, its answer first.

    Raises:
        ConfigError: it has no choices, or its answer is none of them.
    """
    choices = example.choices or ()
    if example.answer not in choices:
        came = shown(choices) if choices else "an example without"
        cure = "give the examples choices, or train with loss_over: vocabulary"
        expected = f"choices with the answer {shown(example.answer)}"
        raise ConfigError("train", [fault("loss_over", expected=expected, came=came, cure=cure)])
    ranked = (example.answer, *(choice for choice in choices if choice != example.answer))
    return [backbone.encode_answer(example, choice, config.usage) for choice in ranked]


def _view(place: int, example: Example, config: TvpConfig, generator: torch.Generator) -> View:
    """What of the picture is shown: cropped and mirrored at random where the config says so."""
    options, picture = config.tvp, _picture(example)
    crop: Literal["centre"] | tuple[int, int] = "centre"
    if options.random_crop:
        width, height = resized_size(picture.size, options.frame)
        inner = options.frame.inner
        crop = _up_to(width - inner, generator), _up_to(height - inner, generator)
    flip = options.flip and bool(torch.rand((), generator=generator) < 0.5)
    return View(place, crop, flip)


def _up_to(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, limit + 1, (), generator=generator))


def _picture(example: Example) -> Image.Image:
    if example.picture is None:
        expected = "a picture in every example (TVP is a frame around it)"
        cure = "leave such examples out, or train M²PT"
        raise ConfigError("train", [fault("data", expected=expected, came="text alone", cure=cure)])
    return example.picture


def _write_bundle(
    config: TvpConfig,
    backbone: Backbone,
    delta: Tensor,
    inputs: Inputs,
    examples: Mapping[str, JsonValue],
) -> Bundle:
    manifest = Manifest(
        name=config.name,
        version=config.version,
        description=config.description,
        frame=config.tvp.frame,
        usage=config.usage,
        provenance=provenance(config, "tvp", examples),
    )
    tensors = {"frame.delta": delta}
    return save_trained(
        config, backbone, Bundle(manifest, tensors, compute_digest(manifest, tensors)), inputs
    )
