"""From the examples of a forward pass to what the model takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from prompts.errors import ConfigError
from prompts.faults import fault
from training.backbone import DeepPrompts, LlavaBackbone, PictureInputs
from training.batches import Order
from training.chat import Encoded
from training.config import M2ptConfig
from training.data import Example, ExampleSource, ExampleStream
from training.data.example import outline_of
from training.grouping import GroupedOrder
from training.m2pt.learned import Layout

__all__ = ["Batch", "answer_total", "batch_maker", "order_of"]


@dataclass(frozen=True)
class Batch:
    """`pictures` are None where no example has one."""

    pictures: PictureInputs | None
    encoded: Sequence[Encoded]


def batch_maker(
    config: M2ptConfig, backbone: LlavaBackbone, layout: Layout
) -> Callable[[Sequence[Example]], Batch]:
    """A function from examples to their batch; answers are cut to `max_length`.

    What it returns raises ConfigError where one of the choices would be cut.
    """
    rows = backbone.image_rows(layout.vision)

    def make(examples: Sequence[Example]) -> Batch:
        encoded = [
            _cut(
                backbone.encode_example(example, config.usage, over_choices=config.loss_over == "choices"),
                config,
                text_rows=layout.text_length,
                image_rows=rows if example.picture else 0,
            )
            for example in examples
        ]
        return Batch(_pictures(backbone, examples), encoded)

    return make


def order_of(
    config: M2ptConfig,
    backbone: LlavaBackbone,
    layout: Layout,
    data: ExampleSource | ExampleStream,
) -> Order | None:
    """By length, as far as the model sees it: rows of picture, question and answer. None: as usual."""
    if not config.m2pt.group_by_length or isinstance(data, ExampleStream):
        return None
    image_rows = backbone.image_rows(layout.vision)

    def length(place: int) -> int:
        outline = outline_of(data, place)
        assert outline is not None, "preflight asks for data that tells"
        rendered = backbone.chat.render(outline.question, picture=outline.has_picture, usage=config.usage)
        encoded = backbone.chat.encode(rendered, outline.answer)
        whole = len(encoded.prompt) + len(encoded.answer) + (image_rows - 1) * outline.has_picture
        return min(whole, config.m2pt.max_length - layout.text_length)

    return GroupedOrder(len(data), config.seed, batch=config.batch, length=length)


def answer_total(backbone: LlavaBackbone, batch: Batch, deep: DeepPrompts) -> tuple[Tensor, int]:
    """Sum of the losses of a batch's answer tokens, a float32 scalar, and their number."""
    features = None if batch.pictures is None else backbone.image_features(batch.pictures, deep)
    return backbone.answer_total(backbone.collate(batch.encoded, features), features, deep)


def _cut(encoded: Encoded, config: M2ptConfig, *, text_rows: int, image_rows: int) -> Encoded:
    """The answer cut to what `max_length` leaves beside prompts, picture and question: one token at least.

    Raises:
        ConfigError: it would cut one of the choices, whose end may be what tells it from another.
    """
    room = config.m2pt.max_length - text_rows - len(encoded.prompt) - max(0, image_rows - 1)
    if encoded.allowed is not None and room < len(encoded.answer):
        expected = f"{config.m2pt.max_length - room + len(encoded.answer)} rows at least, for a whole choice"
        came, cure = str(config.m2pt.max_length), "raise it"
        raise ConfigError("train", [fault("m2pt.max_length", expected=expected, came=came, cure=cure)])
    return encoded.cut(max(1, room))


def _pictures(backbone: LlavaBackbone, examples: Sequence[Example]) -> PictureInputs | None:
    pictures = [example.picture for example in examples if example.picture is not None]
    return backbone.process(pictures) if pictures else None
