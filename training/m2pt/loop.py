"""The loop: AdamW on prompts and projector, cosine with warm-up, loss on the answers alone.

The base weights are frozen; learned tensors are float32 and enter the model in its own dtype.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from pydantic import JsonValue

from prompts.bundle import Bundle, compute_digest
from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.fingerprint import base_model_ref
from prompts.manifest import Manifest
from training.backbone import LlavaBackbone
from training.backbone.sharding import share_out
from training.batches import prepared
from training.config import M2ptConfig
from training.m2pt.batching import Batch, answer_total, batch_maker, order_of
from training.m2pt.learned import Learned, fresh
from training.m2pt.learner import Learner
from training.m2pt.validation import Watch, measure
from training.preflight import Inputs, open_training
from training.provenance import provenance
from training.ranks import Ranks, open_ranks
from training.reading import Reader, open_reader
from training.run import Run
from training.saving import save_trained
from training.schedule import cosine_rate

__all__ = ["Ended", "learn", "train_m2pt"]

AnyLearner = TypeVar("AnyLearner", bound=Learner)


@dataclass(frozen=True)
class Ended(Generic[AnyLearner]):
    """A loop at its end.

    Attributes:
        examples: what a bundle says of the data that was read, see `training.reading.Reader.report`.
    """

    backbone: LlavaBackbone
    learned: AnyLearner
    inputs: Inputs
    examples: Mapping[str, JsonValue]


def train_m2pt(config: M2ptConfig) -> Bundle:
    """Trains the prompts and writes their bundle; resumes a run of the same config.

    Under torchrun each process takes its part of every batch, and the first writes: the steps are those of
    one process, to rounding.

    Raises:
        ConfigError: a path, the data, the number of processes or the resumed run does not fit the config, or
            too much of the data is broken.
        BaseModelError: the model's weights are no safetensors.
        PictureError: a file of the validation data is no picture.
        SystemExit: another process failed.
    """
    with open_ranks() as ranks:
        ended = learn(config, ranks, fresh, _bundle)
        trained = _bundle(ended.learned, ended.examples)
        if config.shard or ranks.is_first:  # the others are needed where the model is shared out
            return save_trained(config, ended.backbone, trained, ended.inputs, write=ranks.is_first)
        return trained


def learn(
    config: M2ptConfig,
    ranks: Ranks,
    begin: Callable[[M2ptConfig, LlavaBackbone], AnyLearner],
    bundle_of: Callable[[AnyLearner], Bundle] | None = None,
) -> Ended[AnyLearner]:
    """The loop alone, over whatever `begin` gives to learn; resumes a run of the same config.

    Args:
        bundle_of: what a look at the validation data with `metric: accuracy` measures.

    Raises:
        ConfigError, BaseModelError, PictureError, SystemExit: as `train_m2pt`.
    """
    with ranks.agreeing():
        _check_parts(config, ranks)
        inputs = open_training(config, checkpoints=[("model", config.model, ("llava",))])
        base_model_ref(config.model)  # now, and not after hours: a bundle will want it
        run = Run(config, ranks)
        found = run.resume()
        share = share_out if config.shard else None
        backbone = LlavaBackbone.load(config.model, dtype=config.dtype, share=share)
        if config.gradient_checkpointing:
            backbone.checkpoint_layers()
        learned = begin(config, backbone)
        reader = _open_reader(config, backbone, learned, inputs)
    saved = ranks.from_first(found)
    ranks.take_from_first(learned.tensors.values())
    optimizer = torch.optim.AdamW(learned.groups(), weight_decay=config.m2pt.weight_decay)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        learned.load(saved["tensors"])
        reader.ledger.restore(saved.get("broken", ()))
    watch = Watch(config, saved["watch"] if saved else None)
    done = saved["step"] if saved else 0
    first = config.steps if watch.stopped else done
    passes = range(first * config.accumulate, config.steps * config.accumulate)
    with (
        closing(prepared(_pass_maker(config, backbone, learned, reader, ranks), passes)) as batches,
        closing(run.steps(first)) as steps,
    ):
        for step, bar in steps:
            rate = cosine_rate(step, steps=config.steps, warmup=config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            total = 0.0
            for _ in range(config.accumulate):
                with ranks.agreeing():
                    batch = next(batches)
                summed, tokens = answer_total(backbone, batch, learned.deep())
                loss = summed / max(1.0, ranks.total(tokens)) / config.accumulate
                if loss.requires_grad:  # not where only vision is learned and no example has a picture
                    loss.backward()
                total += loss.item()
            ranks.add_gradients(learned.tensors.values())
            torch.nn.utils.clip_grad_norm_(learned.tensors.values(), config.m2pt.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            read = done * config.accumulate
            figures = {"loss": ranks.total(total), "lr": config.lr * rate, **reader.figures(read)}
            if watch.is_due(step) and inputs.validation is not None:
                value = measure(backbone, learned, inputs.validation, ranks, bundle_of)
                figures |= watch.look(step, value, learned)
            is_due = run.is_due(step) or watch.stopped
            with ranks.agreeing():
                run.log(step, bar, **figures)
                if is_due:
                    broken = reader.ledger.state(read)
                    run.save(step, {**_state(learned, optimizer, watch), "broken": broken})
                    run.note_broken(reader.ledger.summary(read))
            if watch.stopped:
                run.tell(bar, f"stopped after step {done}: {watch}")
                break
    run.finish()
    watch.take_best(learned)
    return Ended(backbone, learned, inputs, reader.report(done * config.accumulate))


def _check_parts(config: M2ptConfig, ranks: Ranks) -> None:
    """Raises ConfigError where a batch cannot be shared out evenly, or a model at all."""
    if config.shard and ranks.count == 1:
        cure = "start the job with torchrun, or leave it out"
        raise ConfigError("train", [fault("shard", expected="several processes", came="one", cure=cure)])
    if config.batch % ranks.count:
        expected, cure = f"a multiple of {ranks.count}, the number of processes", "change one of them"
        raise ConfigError("train", [fault("batch", expected=expected, came=str(config.batch), cure=cure)])


def _state(learned: Learner, optimizer: torch.optim.Optimizer, watch: Watch) -> dict[str, Any]:
    """What the next step depends on beside the config and the data."""
    return {"tensors": learned.state(), "optimizer": optimizer.state_dict(), "watch": watch.state()}


def _pass_maker(
    config: M2ptConfig, backbone: LlavaBackbone, learned: Learner, reader: Reader, ranks: Ranks
) -> Callable[[int], Batch]:
    """From the number of a forward pass to this process's part of its batch.

    Every process opens all of the batch's pictures, so that all of them know alike what is broken.
    """
    batch_of = batch_maker(config, backbone, learned.layout)
    return lambda number: batch_of([seat.example for seat in ranks.part(reader.seats(number))])


def _open_reader(config: M2ptConfig, backbone: LlavaBackbone, learned: Learner, inputs: Inputs) -> Reader:
    return open_reader(
        inputs.data,
        batch=config.batch,
        seed=config.seed,
        max_broken_share=config.max_broken_share,
        order=order_of(config, backbone, learned.layout, inputs.data),
    )


def _bundle(learned: Learned, examples: Mapping[str, JsonValue] | None = None) -> Bundle:
    """Prompts in bfloat16, the precision they were used in on most machines; the file stays small."""
    config = learned.config
    manifest = Manifest(
        name=config.name,
        version=config.version,
        description=config.description,
        base_model=base_model_ref(config.model),
        text=learned.layout.text,
        vision=learned.layout.vision,
        projector=config.m2pt.projector,
        lm_head=config.m2pt.lm_head,
        usage=config.usage,
        provenance=provenance(config, "m2pt", examples),
    )
    with torch.no_grad():
        values = learned.values()
    tensors = {name: tensor.to("cpu", torch.bfloat16) for name, tensor in values.items()}
    return Bundle(manifest, tensors, compute_digest(manifest, tensors))
