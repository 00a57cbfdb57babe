"""The loop: AdamW on prompts and projector, cosine with warm-up, loss on the answers alone.

The base weights are frozen; learned tensors are float32 and enter the model in its own dtype.
"""

from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from prompts.bundle import Bundle
from prompts.fingerprint import base_model_ref
from prompts.manifest import BaseModelRef, Manifest
from training.backbone import DeepPrompts, LlavaBackbone
from training.batches import examples_of_pass, prepared
from training.config import M2ptConfig
from training.m2pt.batching import Batch, batch_maker
from training.m2pt.learned import Learned, fresh
from training.preflight import Inputs, open_training
from training.provenance import provenance
from training.run import Run
from training.saving import save_trained
from training.schedule import cosine_rate

__all__ = ["train_m2pt"]


def train_m2pt(config: M2ptConfig) -> Bundle:
    """Trains the prompts and writes their bundle; resumes a run of the same config.

    Raises:
        ConfigError: a path, the data or the resumed run does not fit the config.
        BaseModelError: the model's weights are no safetensors.
        PictureError: a file of the data is no picture.
    """
    inputs = open_training(config, checkpoints=[("model", config.model, ("llava",))])
    base = base_model_ref(config.model)
    run = Run(config)
    saved = run.resume()
    backbone = LlavaBackbone.load(config.model, dtype=config.dtype)
    if config.gradient_checkpointing:
        backbone.checkpoint_layers()
    learned = fresh(config, backbone)
    optimizer = torch.optim.AdamW(learned.groups(), weight_decay=config.m2pt.weight_decay)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        learned.load(saved["tensors"])
    start = saved["step"] if saved else 0
    passes = range(start * config.accumulate, config.steps * config.accumulate)
    with (
        closing(prepared(_pass_maker(config, backbone, learned, inputs), passes)) as batches,
        closing(run.steps(start)) as steps,
    ):
        for step, bar in steps:
            rate = cosine_rate(step, steps=config.steps, warmup=config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            total = 0.0
            for _ in range(config.accumulate):
                loss = _loss(backbone, next(batches), learned.deep()) / config.accumulate
                if loss.requires_grad:  # not where only vision is learned and no example has a picture
                    loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(learned.tensors.values(), config.m2pt.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            run.log(step, bar, loss=total, lr=config.lr * rate)
            if run.is_due(step):
                run.save(step, {"tensors": learned.state(), "optimizer": optimizer.state_dict()})
    run.finish()
    return _write_bundle(config, backbone, learned, base=base, inputs=inputs)


def _pass_maker(
    config: M2ptConfig, backbone: LlavaBackbone, learned: Learned, inputs: Inputs
) -> Callable[[int], Batch]:
    make = batch_maker(config, backbone, learned.layout.vision)
    return lambda number: make(
        examples_of_pass(inputs.data, number=number, batch=config.batch, seed=config.seed)
    )


def _loss(backbone: LlavaBackbone, batch: Batch, deep: DeepPrompts) -> Tensor:
    features = None if batch.pictures is None else backbone.image_features(batch.pictures, deep)
    return backbone.answer_loss(backbone.collate(batch.encoded, features), features, deep)


def _write_bundle(
    config: M2ptConfig, backbone: LlavaBackbone, learned: Learned, *, base: BaseModelRef, inputs: Inputs
) -> Bundle:
    """Prompts in bfloat16, the precision they were used in on most machines; the file stays small."""
    manifest = Manifest(
        name=config.name,
        version=config.version,
        description=config.description,
        base_model=base,
        text=learned.layout.text,
        vision=learned.layout.vision,
        projector=config.m2pt.projector,
        lm_head=config.m2pt.lm_head,
        usage=config.usage,
        provenance=provenance(config, "m2pt"),
    )
    with torch.no_grad():
        values = learned.values()
    tensors = {name: tensor.to("cpu", torch.bfloat16) for name, tensor in values.items()}
    return save_trained(config, backbone, manifest, tensors, inputs)
