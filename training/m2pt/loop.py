"""The loop: AdamW on prompts and projector, cosine with warm-up, loss on the answers alone.

The base weights are frozen; learned tensors are float32 and enter the model in its own dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from pydantic import JsonValue
from tqdm import tqdm

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


@dataclass
class _Job(Generic[AnyLearner]):
    """A loop under way.

    Attributes:
        done: how many steps were made, those of an earlier start among them.
    """

    config: M2ptConfig
    ranks: Ranks
    run: Run
    inputs: Inputs
    backbone: LlavaBackbone
    learned: AnyLearner
    reader: Reader
    optimizer: torch.optim.Optimizer
    watch: Watch
    done: int

    @property
    def passes(self) -> int:
        """How many forward passes the steps so far took."""
        return self.done * self.config.accumulate


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
    job = _open_job(config, ranks, begin)
    first = config.steps if job.watch.stopped else job.done
    passes = range(first * config.accumulate, config.steps * config.accumulate)
    with (
        closing(prepared(_pass_maker(job), passes)) as batches,
        closing(job.run.steps(first)) as steps,
    ):
        for step, bar in steps:
            figures = _step(job, step, batches)
            figures |= _look(job, step, bundle_of)
            _record(job, step, bar, figures)
            if job.watch.stopped:
                job.run.tell(bar, f"stopped after step {job.done}: {job.watch}")
                break
    job.run.finish()
    job.watch.take_best(job.learned)
    return Ended(job.backbone, job.learned, job.inputs, job.reader.report(job.passes))


def _open_job(
    config: M2ptConfig, ranks: Ranks, begin: Callable[[M2ptConfig, LlavaBackbone], AnyLearner]
) -> _Job[AnyLearner]:
    """At its start, or where the last checkpoint left it."""
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
    watch, done = Watch(config, saved["watch"] if saved else None), saved["step"] if saved else 0
    return _Job(config, ranks, run, inputs, backbone, learned, reader, optimizer, watch, done)


def _step(job: _Job[AnyLearner], step: int, batches: Iterator[Batch]) -> dict[str, float]:
    """One step of the optimizer, and what the log says of it."""
    config = job.config
    rate = cosine_rate(step, steps=config.steps, warmup=config.warmup)
    for group in job.optimizer.param_groups:
        group["lr"] = group["peak"] * rate
    loss = 0.0
    for _ in range(config.accumulate):
        loss += _descend(job, batches)
    job.ranks.add_gradients(job.learned.tensors.values())
    torch.nn.utils.clip_grad_norm_(job.learned.tensors.values(), config.m2pt.max_gradient_norm)
    job.optimizer.step()
    job.optimizer.zero_grad()
    job.done = step + 1
    return {"loss": job.ranks.total(loss), "lr": config.lr * rate, **job.reader.figures(job.passes)}


def _descend(job: _Job[AnyLearner], batches: Iterator[Batch]) -> float:
    """Adds the gradients of one pass, and returns this process's share of its loss."""
    with job.ranks.agreeing():
        batch = next(batches)
    summed, tokens = answer_total(job.backbone, batch, job.learned.deep())
    loss = summed / max(1.0, job.ranks.total(tokens)) / job.config.accumulate
    if loss.requires_grad:  # not where only vision is learned and no example has a picture
        loss.backward()
    return loss.item()


def _look(
    job: _Job[AnyLearner], step: int, bundle_of: Callable[[AnyLearner], Bundle] | None
) -> dict[str, float]:
    """What the validation data say after a step, where it is time to ask them."""
    if not job.watch.is_due(step) or job.inputs.validation is None:
        return {}
    value = measure(job.backbone, job.learned, job.inputs.validation, job.ranks, bundle_of)
    return job.watch.look(step, value, job.learned)


def _record(job: _Job[AnyLearner], step: int, bar: "tqdm[Any]", figures: Mapping[str, float]) -> None:
    """Logs a step, and saves a checkpoint where one is due."""
    is_due = job.run.is_due(step) or job.watch.stopped
    with job.ranks.agreeing():
        job.run.log(step, bar, **figures)
        if is_due:
            job.run.save(step, _state(job))
            job.run.note_broken(job.reader.ledger.summary(job.passes))


def _check_parts(config: M2ptConfig, ranks: Ranks) -> None:
    """Raises ConfigError where a batch cannot be shared out evenly, or a model at all."""
    if config.shard and ranks.count == 1:
        cure = "start the job with torchrun, or leave it out"
        raise ConfigError("train", [fault("shard", expected="several processes", came="one", cure=cure)])
    if config.batch % ranks.count:
        expected, cure = f"a multiple of {ranks.count}, the number of processes", "change one of them"
        raise ConfigError("train", [fault("batch", expected=expected, came=str(config.batch), cure=cure)])


def _state(job: _Job[AnyLearner]) -> dict[str, Any]:
    """What the next step depends on beside the config and the data."""
    return {
        "tensors": job.learned.state(),
        "optimizer": job.optimizer.state_dict(),
        "watch": job.watch.state(),
        "broken": job.reader.ledger.state(job.passes),
    }


def _pass_maker(job: _Job[AnyLearner]) -> Callable[[int], Batch]:
    """From the number of a forward pass to this process's part of its batch.

    Every process opens all of the batch's pictures, so that all of them know alike what is broken.
    """
    batch_of = batch_maker(job.config, job.backbone, job.learned.layout)
    return lambda number: batch_of([seat.example for seat in job.ranks.part(job.reader.seats(number))])


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
