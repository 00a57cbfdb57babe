"""M²PT: learned tokens in every layer of vision encoder and language model, and a projector trained further.

AdamW on the prompts (and the projector), cosine with warm-up, loss on the answers alone. The base weights are
frozen; learned tensors are float32 and enter the model in its own dtype.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from prompts.bundle import Bundle, load_bundle
from prompts.deep import xavier_prompts
from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.fingerprint import base_model_ref
from prompts.manifest import BaseModelRef, Manifest, TextSpec, VisionSpec
from training.backbone import DeepPrompts, LlavaBackbone, PictureInputs
from training.batches import Order, prepared
from training.chat import Encoded
from training.config import M2ptConfig, M2ptOptions
from training.data import Example, ExampleSource, ExampleStream
from training.data.example import outline_of
from training.grouping import GroupedOrder
from training.preflight import Inputs, open_training
from training.provenance import provenance
from training.reading import Reader, open_reader
from training.run import Run
from training.saving import save_trained
from training.schedule import cosine_rate

__all__ = ["train_m2pt"]


@dataclass(frozen=True)
class _Batch:
    """`pictures` are None where no example has one."""

    pictures: PictureInputs | None
    encoded: Sequence[Encoded]


@dataclass(frozen=True)
class _Learned:
    """The tensors in training, by their names in a bundle."""

    tensors: dict[str, Tensor]
    config: M2ptConfig

    def deep(self) -> DeepPrompts:
        """As the backbone takes them; gradients flow."""
        prefix = "projector."
        projector = {
            name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)
        }
        return DeepPrompts(
            text=self.tensors.get("text.prompts"),
            vision=self.tensors.get("vision.prompts"),
            vision_mode=self.config.m2pt.mode,
            projector=projector or None,
        )

    def groups(self) -> list[dict[str, object]]:
        """AdamW's parameter groups, with each group's own peak learning rate as `peak`."""
        own = {
            "text": self.config.lr,
            "vision": self.config.m2pt.vision_lr or self.config.lr,
            "projector": self.config.m2pt.projector_lr or self.config.lr,
        }
        chosen: dict[str, list[Tensor]] = {}
        for name, tensor in self.tensors.items():
            chosen.setdefault(name.partition(".")[0], []).append(tensor)
        return [{"params": tensors, "lr": own[part], "peak": own[part]} for part, tensors in chosen.items()]


def train_m2pt(config: M2ptConfig) -> Bundle:
    """Trains the prompts and writes their bundle; resumes a run of the same config.

    Raises:
        ConfigError: a path, the data or the resumed run does not fit the config, or too much of the data is
            broken.
        BaseModelError: the model's weights are no safetensors.
        PictureError: a file of the validation data is no picture.
    """
    inputs = open_training(config, checkpoints=[("model", config.model, ("llava",))])
    base = base_model_ref(config.model)
    run = Run(config)
    saved = run.resume()
    backbone = LlavaBackbone.load(config.model, dtype=config.dtype)
    learned = _fresh(config, backbone)
    reader = open_reader(
        inputs.data,
        batch=config.batch,
        seed=config.seed,
        max_broken_share=config.max_broken_share,
        order=_order(config, backbone, inputs.data),
    )
    optimizer = torch.optim.AdamW(learned.groups(), weight_decay=config.m2pt.weight_decay)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for name, tensor in learned.tensors.items():
                tensor.copy_(saved["tensors"][name])
        reader.ledger.restore(saved.get("broken", ()))
    start = saved["step"] if saved else 0
    passes = range(start * config.accumulate, config.steps * config.accumulate)
    with (
        closing(prepared(_batch_maker(config, backbone, reader), passes)) as batches,
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
            read = (step + 1) * config.accumulate
            run.log(step, bar, loss=total, lr=config.lr * rate, **reader.figures(read))
            if run.is_due(step):
                tensors = {name: tensor.detach().cpu() for name, tensor in learned.tensors.items()}
                broken = reader.ledger.state(read)
                run.save(step, {"tensors": tensors, "optimizer": optimizer.state_dict(), "broken": broken})
                run.note_broken(reader.ledger.summary(read))
    run.finish()
    examples = reader.report(config.steps * config.accumulate)
    return _write_bundle(config, backbone, learned, base=base, inputs=inputs, examples=examples)


def _fresh(config: M2ptConfig, backbone: LlavaBackbone) -> _Learned:
    """Xavier-uniform prompts (or the text ones from a text) and the model's projector, all float32."""
    generator = torch.Generator().manual_seed(config.seed)
    options, tensors = config.m2pt, dict[str, Tensor]()
    if options.text_length:
        tensors["text.prompts"] = _fresh_text(options, backbone, generator)
    if options.vision_length:
        layers, hidden = backbone.vision_shape
        tensors["vision.prompts"] = xavier_prompts(layers, options.vision_length, hidden, generator)
    if options.projector:
        for name, parameter in backbone.projector.named_parameters():
            tensors[f"projector.{name}"] = parameter.detach().float().clone()
    if options.init_bundle is not None:
        tensors = _of_bundle(options.init_bundle, tensors)
    on_device = {name: tensor.to(backbone.device).requires_grad_() for name, tensor in tensors.items()}
    return _Learned(on_device, config)


def _of_bundle(folder: Path, fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """The bundle's values in place of the fresh ones.

    Raises:
        BundleError: it is no bundle.
        ConfigError: it holds other tensors, or of other shapes.
    """
    found = {name: tensor.float() for name, tensor in load_bundle(folder).tensors.items()}
    shapes = [{name: tuple(t.shape) for name, t in tensors.items()} for tensors in (fresh, found)]
    if shapes[0] != shapes[1]:
        expected, came = (", ".join(f"{n} {list(s)}" for n, s in sorted(one.items())) for one in shapes)
        cure = "give the lengths that the bundle has"
        raise ConfigError("train", [fault("m2pt.init_bundle", expected=expected, came=came, cure=cure)])
    return found


def _fresh_text(options: M2ptOptions, backbone: LlavaBackbone, generator: torch.Generator) -> Tensor:
    if options.init_text is not None:
        return backbone.text_prompts_of(options.init_text, options.text_length)
    layers, hidden = backbone.text_shape
    return xavier_prompts(layers, options.text_length, hidden, generator)


def _loss(backbone: LlavaBackbone, batch: _Batch, deep: DeepPrompts) -> Tensor:
    features = None if batch.pictures is None else backbone.image_features(batch.pictures, deep)
    return backbone.answer_loss(backbone.collate(batch.encoded, features), features, deep)


def _batch_maker(config: M2ptConfig, backbone: LlavaBackbone, reader: Reader) -> Callable[[int], _Batch]:
    rows = backbone.image_rows(_vision_spec(config, backbone))

    def make(number: int) -> _Batch:
        examples = [seat.example for seat in reader.seats(number)]
        encoded = [
            _cut(
                backbone.encode_example(example, config.usage, over_choices=config.loss_over == "choices"),
                config,
                image_rows=rows if example.picture else 0,
            )
            for example in examples
        ]
        return _Batch(_pictures(backbone, examples), encoded)

    return make


def _order(config: M2ptConfig, backbone: LlavaBackbone, data: ExampleSource | ExampleStream) -> Order | None:
    """By length, as far as the model sees it: rows of picture, question and answer. None: as usual."""
    if not config.m2pt.group_by_length or isinstance(data, ExampleStream):
        return None
    image_rows = backbone.image_rows(_vision_spec(config, backbone))

    def length(place: int) -> int:
        outline = outline_of(data, place)
        assert outline is not None, "preflight asks for data that tells"
        rendered = backbone.chat.render(outline.question, picture=outline.has_picture, usage=config.usage)
        encoded = backbone.chat.encode(rendered, outline.answer)
        whole = len(encoded.prompt) + len(encoded.answer) + (image_rows - 1) * outline.has_picture
        return min(whole, config.m2pt.max_length - config.m2pt.text_length)

    return GroupedOrder(len(data), config.seed, batch=config.batch, length=length)


def _cut(encoded: Encoded, config: M2ptConfig, *, image_rows: int) -> Encoded:
    """The answer cut to what `max_length` leaves beside prompts, picture and question: one token at least.

    Raises:
        ConfigError: it would cut one of the choices, whose end may be what tells it from another.
    """
    room = config.m2pt.max_length - config.m2pt.text_length - len(encoded.prompt) - max(0, image_rows - 1)
    if encoded.allowed is not None and room < len(encoded.answer):
        expected = f"{config.m2pt.max_length - room + len(encoded.answer)} rows at least, for a whole choice"
        came, cure = str(config.m2pt.max_length), "raise it"
        raise ConfigError("train", [fault("m2pt.max_length", expected=expected, came=came, cure=cure)])
    return encoded.cut(max(1, room))


def _pictures(backbone: LlavaBackbone, examples: Sequence[Example]) -> PictureInputs | None:
    pictures = [example.picture for example in examples if example.picture is not None]
    return backbone.process(pictures) if pictures else None


def _vision_spec(config: M2ptConfig, backbone: LlavaBackbone) -> VisionSpec | None:
    if not config.m2pt.vision_length:
        return None
    layers, hidden = backbone.vision_shape
    return VisionSpec(layers=layers, length=config.m2pt.vision_length, hidden=hidden, mode=config.m2pt.mode)


def _write_bundle(
    config: M2ptConfig,
    backbone: LlavaBackbone,
    learned: _Learned,
    *,
    base: BaseModelRef,
    inputs: Inputs,
    examples: Mapping[str, JsonValue],
) -> Bundle:
    """Prompts in bfloat16, the precision they were used in on most machines; the file stays small."""
    layers, hidden = backbone.text_shape
    length = config.m2pt.text_length
    manifest = Manifest(
        name=config.name,
        version=config.version,
        description=config.description,
        base_model=base,
        text=TextSpec(layers=layers, length=length, hidden=hidden) if length else None,
        vision=_vision_spec(config, backbone),
        projector=config.m2pt.projector,
        usage=config.usage,
        provenance=provenance(config, "m2pt", examples),
    )
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in learned.tensors.items()}
    return save_trained(config, backbone, manifest, tensors, inputs)
