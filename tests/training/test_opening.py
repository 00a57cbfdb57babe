"""Rows that a batch begins with alike are computed once: the same loss, the same gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.tiny_llava import HIDDEN, LAYERS, VISION_HIDDEN, VISION_LAYERS, make_tiny_llava
from tests.training.conftest import random_picture
from training.backbone import DeepPrompts, LlavaBackbone
from training.backbone.opening import rows_alike, worth_sharing
from training.chat import Encoded, collate

IMAGE = 9
TEXT_LENGTH, VISION_LENGTH = 12, 8
ANSWERS = (
    "seven",
    "a heron by the water",
    "well",
    "two",
    "name the bird",
    "a",
    "hello",
    "there",
    "you",
    "day",
)


def drawn(*shape: int) -> Tensor:
    """Random rows to learn, the same for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4)).requires_grad_()


def learned(backbone: LlavaBackbone, **changes: Any) -> tuple[DeepPrompts, list[Tensor]]:
    """Random prompts and the model's projector, and all of them in a list."""
    text, vision = drawn(LAYERS, TEXT_LENGTH, HIDDEN), drawn(VISION_LAYERS, VISION_LENGTH, VISION_HIDDEN)
    projector = {n: p.detach().clone().requires_grad_() for n, p in backbone.projector.named_parameters()}
    deep = {"text": text, "vision": vision, "projector": projector, **changes}
    return DeepPrompts(**deep), [deep["text"], deep["vision"], *projector.values()]


def losses(
    backbone: LlavaBackbone, deep: DeepPrompts, values: Sequence[Tensor], places: Sequence[int]
) -> list[Tensor]:
    """Summed loss of the answers in `places`, each to a picture of its own, and its gradients."""
    features = backbone.image_features(backbone.process([random_picture(place) for place in places]), deep)
    rendered = backbone.chat.render("what digit is this?", picture=True)
    encoded = [backbone.chat.encode(rendered, ANSWERS[place]) for place in places]
    total, _ = backbone.answer_total(backbone.collate(encoded, features), features, deep)
    return [total.detach(), *torch.autograd.grad(total, values)]


@contextmanager
def passes(backbone: LlavaBackbone) -> Iterator[list[tuple[int, int]]]:
    """While open: how many examples and rows each pass through the decoder has."""
    seen: list[tuple[int, int]] = []
    hook = backbone.decoder.layers[0].register_forward_pre_hook(
        lambda _, args: seen.append((args[0].shape[0], args[0].shape[1]))
    )
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_mode": "paper"},
        {"text": drawn(2, TEXT_LENGTH, HIDDEN), "text_at": (0, 2)},
        {"vision": drawn(2, VISION_LENGTH, VISION_HIDDEN), "vision_at": (0, 2)},
        {"vision": drawn(2, VISION_LENGTH, VISION_HIDDEN), "vision_at": (0, 3)},
    ],
    ids=["released", "paper", "text_at", "varying", "vision_at"],
)
def test_a_batch_has_the_losses_and_gradients_of_its_examples(
    tiny: LlavaBackbone, changes: dict[str, Any]
) -> None:
    deep, values = learned(tiny, **changes)
    with passes(tiny) as seen:
        together = losses(tiny, deep, values, range(len(ANSWERS)))
    (one, first), (all_of_them, others) = seen
    assert (one, all_of_them) == (1, len(ANSWERS))
    with passes(tiny) as seen:
        alone = [losses(tiny, deep, values, [place]) for place in range(len(ANSWERS))]
    assert max(rows for _, rows in seen) == first + others
    assert first > TEXT_LENGTH
    for found, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(parts).sum(0), atol=1e-4, rtol=1e-3)
        assert found.abs().max() > 0


def test_layers_that_keep_their_inputs_alone_see_whole_examples(tiny_folder: Path) -> None:
    backbone = LlavaBackbone.load(tiny_folder, dtype="float32", device="cpu")
    deep, values = learned(backbone)
    plain = losses(backbone, deep, values, range(len(ANSWERS)))
    backbone.checkpoint_layers()
    with passes(backbone) as seen:
        found = losses(backbone, deep, values, range(len(ANSWERS)))
    assert {examples for examples, _ in seen} == {len(ANSWERS)}
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "changes", "constant"),
    [
        ({}, {}, VISION_LENGTH - 1),
        ({}, {"vision_mode": "paper"}, 0),
        ({}, {"vision": drawn(1, VISION_LENGTH, VISION_HIDDEN), "vision_at": (2,)}, 0),
        ({}, {"vision": drawn(1, VISION_LENGTH, VISION_HIDDEN), "vision_at": (3,)}, VISION_LENGTH - 1),
        ({}, {"vision": None}, 0),
        ({"tower": "siglip"}, {}, VISION_LENGTH),
        ({"vision_feature_layer": -1}, {}, 0),
        ({"vision_feature_layer": [1, -2]}, {}, VISION_LENGTH - 1),
    ],
)
def test_which_rows_of_a_picture_are_constant(
    tmp_path: Path, model: dict[str, Any], changes: dict[str, Any], constant: int
) -> None:
    backbone = LlavaBackbone.load(make_tiny_llava(tmp_path, **model), dtype="float32", device="cpu")
    deep, _ = learned(backbone, **changes)
    with torch.no_grad():
        features = backbone.image_features(backbone.process([random_picture(0), random_picture(1)]), deep)
    one, other = features.rows.chunk(2)
    assert features.constant == constant
    torch.testing.assert_close(one[:constant], other[:constant])
    assert (one[constant] - other[constant]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("prompts", "answers", "constant", "alike"),
    [
        ([(1, 2, 3), (1, 2, 4)], [(5,), (5,)], 0, 2),
        ([(1, IMAGE, 3), (1, IMAGE, 3)], [(5,), (6,)], 0, 1),
        ([(1, IMAGE, 3), (1, IMAGE, 3)], [(5,), (6,)], 2, 3),
        ([(1, IMAGE, 3), (1, 2, 3)], [(5,), (6,)], 2, 1),
        ([(1, 2), (1, 2)], [(5, 6), (5, 6)], 0, 1),
        ([(1, 2, 3, 4), (1, 2)], [(5,), (3, 4)], 0, 1),
        ([(2, 1), (1, 2)], [(5,), (5,)], 0, 0),
    ],
)
def test_rows_alike_end_before_pictures_answers_and_differences(
    prompts: list[tuple[int, ...]], answers: list[tuple[int, ...]], constant: int, alike: int
) -> None:
    encoded = [Encoded(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    pictures = [(IMAGE,) * 4 for prompt in prompts if IMAGE in prompt]
    batch = collate(encoded, image_token_id=IMAGE, pictures=pictures)
    keep = torch.zeros_like(batch.answer)
    keep[:, :-1] = batch.answer[:, 1:]
    assert rows_alike(batch, keep, constant=constant) == alike


def test_one_example_shares_nothing() -> None:
    assert not worth_sharing(1, 10_000)
    assert not worth_sharing(3, 31)
    assert worth_sharing(3, 32)
