"""TVP: a learned frame of pixels around the picture, trained through a frozen model.

Per step: g = gradient of L with respect to the frame; g ← g / (‖g‖₂ + 1e-10) over the whole tensor, masked to
the free border; delta ← delta − lr · g. L = L_task + λ₁ · FCA − λ₂ · TSE (see `losses.py`). The paper lowers the
learning rate by a cosine per epoch; here it is per step, since jobs are counted in steps.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from prompts.bundle import Bundle, save_bundle
from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.frame import apply_frame, fit_picture, frame_mask, resized_size
from prompts.manifest import FrameSpec, Manifest
from training.backbone import LlavaBackbone
from training.batches import examples_of_pass, prepared
from training.chat import TokenBatch, collate
from training.config import TvpConfig
from training.data import Example, make_source
from training.losses import ClipJudge, feature_consistency
from training.measure import validation_metrics
from training.run import Run, provenance
from training.schedule import cosine_rate

__all__ = ["train_tvp"]

_TINY = 1e-10


@dataclass(frozen=True)
class _Batch:
    """`canvas` (B, 3, H, W) f32: pictures in the middle, nothing on the border yet."""

    canvas: Tensor
    tokens: TokenBatch
    answers: list[str]


def train_tvp(config: TvpConfig) -> Bundle:
    """Trains a frame and writes its bundle; resumes a run of the same config.

    Raises:
        ConfigError: a path, the data or the resumed run does not fit the config.
    """
    run, options = Run(config), config.tvp
    torch.manual_seed(config.seed)
    backbone = LlavaBackbone.load(config.model, dtype=config.dtype)
    judge = ClipJudge(options.clip, backbone.device) if options.clip and options.lambda_tse else None
    mask = frame_mask(options.frame).to(backbone.device)
    saved = run.resume() or {"step": 0, "delta": torch.zeros(3, *options.frame.canvas)}
    delta = saved["delta"].to(backbone.device)
    batches = prepared(
        _batch_maker(config, backbone), range(saved["step"] * config.accumulate, _passes(config))
    )
    for step, bar in run.steps(saved["step"]):
        lr = config.lr * cosine_rate(step, steps=config.steps, warmup=config.warmup)
        delta.requires_grad_(True)
        gradient, figures = torch.zeros_like(delta), dict.fromkeys(("loss", "task", "fca", "tse"), 0.0)
        for _ in range(config.accumulate):
            losses = _losses(backbone, judge, next(batches), delta)
            loss = losses["task"] + options.lambda_fca * losses["fca"] - options.lambda_tse * losses["tse"]
            gradient += torch.autograd.grad(loss, delta)[0] / config.accumulate
            for name, value in {"loss": loss, **losses}.items():
                figures[name] += value.item() / config.accumulate
        delta = descend(delta.detach(), gradient, mask, lr=lr, frame=options.frame)
        run.log(step, bar, **figures, lr=lr)
        if run.is_due(step):
            run.save(step, {"delta": delta.cpu()})
    run.plot()
    return _write_bundle(config, backbone, delta.cpu())


def descend(delta: Tensor, gradient: Tensor, mask: Tensor, *, lr: float, frame: FrameSpec) -> Tensor:
    """One normalised step of the frame (3, H, W); zero outside `mask`, in [0, 1] where the range is `unit`."""
    step = lr * gradient / (gradient.norm() + _TINY)
    moved = torch.where(mask, delta - step, 0.0)
    return moved.clamp(0.0, 1.0) if frame.value_range == "unit" else moved


def _losses(
    backbone: LlavaBackbone, judge: ClipJudge | None, batch: _Batch, delta: Tensor
) -> dict[str, Tensor]:
    canvas = batch.canvas.to(backbone.device)
    framed = apply_frame(canvas, delta)
    features = backbone.image_features(backbone.pixels(framed))
    with torch.no_grad():
        clean = backbone.image_features(backbone.pixels(canvas))
    return {
        "task": backbone.answer_loss(batch.tokens.to(backbone.device), features),
        "fca": feature_consistency(features, clean),
        "tse": judge.semantics(framed, batch.answers) if judge else delta.new_zeros(()),
    }


def _batch_maker(config: TvpConfig, backbone: LlavaBackbone):  # type: ignore[no-untyped-def]
    source, rows = make_source(config.data), backbone.image_rows()

    def make(number: int) -> _Batch:
        examples = examples_of_pass(source, number=number, batch=config.batch, seed=config.seed)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
        canvas = torch.stack([_fitted(example, config, generator) for example in examples])
        encoded = [backbone.encode_example(example, config.usage) for example in examples]
        tokens = collate(encoded, image_token_id=backbone.chat.image_token_id, image_rows=rows)
        return _Batch(canvas, tokens, [example.answer for example in examples])

    return make


def _fitted(example: Example, config: TvpConfig, generator: torch.Generator) -> Tensor:
    """One picture on the canvas, cropped and mirrored at random where the config says so."""
    options = config.tvp
    picture = _picture(example)
    crop: tuple[int, int] | str = "centre"
    if options.random_crop:
        width, height = resized_size(picture.size, options.frame)
        crop = (
            _below(width - options.frame.inner, generator),
            _below(height - options.frame.inner, generator),
        )
    flip = options.flip and bool(torch.rand((), generator=generator) < 0.5)
    return fit_picture(picture, options.frame, crop=crop, flip=flip)  # type: ignore[arg-type]


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, limit + 1, (), generator=generator))


def _picture(example: Example) -> Image.Image:
    if example.picture is None:
        cure = "leave such examples out, or train M²PT"
        problem = fault(
            "data", expected="a picture in every example (TVP is a frame around it)", came="text", cure=cure
        )
        raise ConfigError("tvp", [problem])
    return example.picture


def _passes(config: TvpConfig) -> int:
    return config.steps * config.accumulate


def _write_bundle(config: TvpConfig, backbone: LlavaBackbone, delta: Tensor) -> Bundle:
    manifest = Manifest(
        name=config.name,
        version=config.version,
        description=config.description,
        frame=config.tvp.frame,
        usage=config.usage,
        provenance=provenance(config, "tvp"),
    )
    tensors = {"frame.delta": delta}
    bundle = save_bundle(config.bundle_folder, manifest, tensors)
    metrics = validation_metrics(config, backbone, bundle)
    return save_bundle(config.bundle_folder, manifest.model_copy(update={"metrics": metrics}), tensors)
