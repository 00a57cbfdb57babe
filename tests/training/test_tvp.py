"""TVP: the step, the gradient through the model's own preprocessing, EVP, and losses pinned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from prompts.bundle import load_bundle
from prompts.errors import ConfigError
from prompts.frame import apply_frame, fit_picture, frame_mask
from prompts.manifest import FrameSpec
from tests.engine.tiny_families import make_tiny_idefics3, make_tiny_onevision
from tests.engine.tiny_llava import PATCHES
from tests.training.conftest import random_picture
from tests.training.jobs import FRAME, QUESTION, make_llava_json, tvp_job
from training.backbone import LlavaBackbone
from training.batches import examples_of_pass
from training.data import Example, make_source
from training.losses import ranking_loss
from training.preflight import open_training
from training.tvp import descend, train_tvp

SPEC = FrameSpec(**FRAME)
MASK = frame_mask(SPEC)
IN_ORDER = {"random_crop": False, "flip": False}

# Losses of three steps on the tiny model (seed 0), float32, torch 2.13 CPU, computed by this test.
PINNED_EVP = [5.7321, 5.5922, 5.2099]
PINNED_TVP = {
    "loss": [5.8008, 5.7775, 5.3752],
    "task": [5.7321, 5.5925, 5.215],
    "fca": [0.0, 2.1427, 2.2432],
    "tse": [-6.8685, -7.7861, -4.8036],
}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_of(folder: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0]}


def test_a_step_is_the_normalised_gradient_on_the_border() -> None:
    gradient, delta = noise(0, 3, 64, 64), noise(1, 3, 64, 64) * MASK
    moved = descend(delta, gradient, MASK, lr=10.0, frame=SPEC)
    expected = delta - 10 * gradient / gradient.square().sum().sqrt()
    assert torch.equal(moved * ~MASK, torch.zeros(3, 64, 64))
    torch.testing.assert_close(moved * MASK, expected * MASK)
    assert moved.min() < -2  # nothing is clipped


def test_the_norm_counts_the_gradient_under_the_picture_too() -> None:
    gradient = torch.ones(3, 64, 64)
    moved = descend(torch.zeros(3, 64, 64), gradient, MASK, lr=1.0, frame=SPEC)
    assert moved[:, 0, 0].tolist() == pytest.approx([-1 / (3 * 64 * 64) ** 0.5] * 3)


def test_no_gradient_moves_nothing() -> None:
    delta = noise(1, 3, 64, 64) * MASK
    assert torch.equal(descend(delta, torch.zeros(3, 64, 64), MASK, lr=10.0, frame=SPEC), delta)


def test_the_unit_range_is_projected_to() -> None:
    unit = FrameSpec(**FRAME, value_range="unit")
    free = descend(torch.zeros(3, 64, 64), noise(0, 3, 64, 64), MASK, lr=100.0, frame=SPEC)
    held = descend(torch.zeros(3, 64, 64), noise(0, 3, 64, 64), MASK, lr=100.0, frame=unit)
    assert free.max() > 1
    assert free.min() < 0
    assert torch.equal(held, free.clamp(0, 1))


def test_the_losss_gradient_is_that_of_finite_differences(tiny_folder: Path) -> None:
    """Through frame, resize, crop, normalisation, tower, projector and language model, in float64."""
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float64)
    backbone = LlavaBackbone(model, AutoProcessor.from_pretrained(tiny_folder))
    canvas = fit_picture(random_picture(0), SPEC)[None].double()
    encoded = backbone.chat.encode(backbone.chat.render(QUESTION, picture=True), "a heron")

    def loss(delta: Tensor) -> Tensor:
        features = backbone.image_features(backbone.process_canvas(apply_frame(canvas, delta)))
        return backbone.answer_loss(backbone.collate([encoded], features), features)

    delta = (0.5 * noise(2, 3, 64, 64) * MASK).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(delta), delta)
    for direction in (gradient, gradient.sign() * noise(3, 3, 64, 64).abs()):
        step = 0.01 * direction / direction.norm()
        with torch.no_grad():
            slope = (loss(delta + step) - loss(delta - step)) / 2
        assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=0.01)


def test_evp_is_the_plain_task_loss(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    """λ₁ = λ₂ = 0: the first loss is the frozen model's own on the padded pictures, and all there is."""
    config = tvp_job(tiny_folder, picture_folder, tmp_path / "out", IN_ORDER, steps=1)
    train_tvp(config)
    log = log_of(config.out)
    assert set(log) == {"step", "loss", "task", "lr", "time"}
    assert log["loss"] == log["task"]

    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    examples = examples_of_pass(make_source(config.data), number=0, batch=2, seed=42)
    sums = [own_loss(model, processor, example) for example in examples]
    expected = sum(total for total, _ in sums) / sum(tokens for _, tokens in sums)
    assert log["loss"][0] == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def own_loss(
    model: Any, processor: Any, example: Example, answer: str | None = None, end: str = "</s>"
) -> tuple[float, int]:
    """Summed cross-entropy of answer and end token by transformers alone, and how many tokens that is."""
    assert example.picture is not None
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    asked = processor.apply_chat_template(talk, add_generation_prompt=True).replace(
        "<image>", "<image>" * PATCHES
    )
    tokenizer = processor.tokenizer
    prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{asked} {answer or example.answer}{end}", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] == prompt
    pixels = processor.image_processor(
        fit_picture(example.picture, SPEC), do_rescale=False, return_tensors="pt"
    )["pixel_values"]
    labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
    loss = model(input_ids=torch.tensor([whole]), pixel_values=pixels, labels=labels).loss.item()
    tokens = len(whole) - len(prompt)
    return loss * tokens, tokens


def test_a_loss_over_a_ranking_is_that_of_the_measures_own_scores(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """Cross-entropy over the choices' mean log-likelihoods per token, each by transformers alone."""
    config = tvp_job(tiny_folder, picture_folder, tmp_path / "out", IN_ORDER, steps=1, loss_over="ranking")
    train_tvp(config)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    expected = []
    for example in examples_of_pass(make_source(config.data), number=0, batch=2, seed=42):
        ranked = sorted(example.choices or (), key=lambda choice: choice != example.answer)
        sums = [own_loss(model, processor, example, choice, end="") for choice in ranked]
        scores = torch.tensor([-total / tokens for total, tokens in sums])
        expected.append(-scores.log_softmax(0)[0].item())
    assert log_of(config.out)["loss"][0] == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_gradient_of_a_ranking_is_that_of_finite_differences(tiny_folder: Path) -> None:
    """Through the key-value cache that all candidates go on from, in float64."""
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float64)
    backbone = LlavaBackbone(model, AutoProcessor.from_pretrained(tiny_folder))
    canvas = fit_picture(random_picture(0), SPEC)[None].double()
    rendered = backbone.chat.render(QUESTION, picture=True)
    encoded = [backbone.chat.encode(rendered, name) for name in ("a heron", "seven water birds", "two")]

    def loss(delta: Tensor) -> Tensor:
        features = backbone.image_features(backbone.process_canvas(apply_frame(canvas, delta)))
        return ranking_loss(backbone, [encoded[0].prompt], [[one.answer for one in encoded]], features)

    delta = (0.5 * noise(2, 3, 64, 64) * MASK).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(delta), delta)
    step = 0.01 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(delta + step) - loss(delta - step)) / 2
    assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=0.01)


def test_a_ranking_wants_choices(tiny_folder: Path, tmp_path: Path) -> None:
    random_picture(0).save(tmp_path / "a.png")
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a heron"}]
    file = make_llava_json(tmp_path, [{"id": "1", "image": "a.png", "conversations": talk}])
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    config = tvp_job(tiny_folder, tmp_path, tmp_path / "out", data=data, loss_over="ranking", batch=1)
    with pytest.raises(ConfigError, match="loss_over: expected choices with the answer 'a heron'"):
        train_tvp(config)


def test_pinned_losses_of_evp(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    config = tvp_job(tiny_folder, picture_folder, tmp_path / "out")
    bundle = train_tvp(config)
    assert log_of(config.out)["loss"] == pytest.approx(PINNED_EVP, rel=1e-3)
    assert log_of(config.out)["lr"] == pytest.approx([10.0, 7.5, 2.5])
    assert bundle.frame_delta is not None
    assert torch.equal(bundle.frame_delta * ~MASK, torch.zeros(3, 64, 64))
    assert bundle.frame_delta.abs().max() > 0.1


def test_pinned_losses_of_tvp(
    tiny_folder: Path, tiny_clip: Path, picture_folder: Path, tmp_path: Path
) -> None:
    tvp = {"lambda_fca": 0.05, "lambda_tse": 0.01, "clip": str(tiny_clip)}
    config = tvp_job(tiny_folder, picture_folder, tmp_path / "out", tvp)
    bundle = train_tvp(config)
    log = log_of(config.out)
    for name, pinned in PINNED_TVP.items():
        assert log[name] == pytest.approx(pinned, rel=1e-3), name
    for loss, task, fca, tse in zip(log["loss"], log["task"], log["fca"], log["tse"], strict=True):
        assert loss == pytest.approx(task + 0.05 * fca - 0.01 * tse, rel=1e-5)
    assert log["fca"][0] == 0  # the frame is zero at the start
    assert load_bundle(config.bundle_folder).digest == bundle.digest


def test_passes_of_one_step_are_one_batch(tiny_folder: Path, tmp_path: Path, picture_folder: Path) -> None:
    """Two passes of one picture with answers of equal length move the frame as one pass of two does."""
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        random_picture(ord(name)).save(tmp_path / "pictures" / name / "0.png")
    whole = tvp_job(tiny_folder, tmp_path / "pictures", tmp_path / "whole", IN_ORDER, steps=1)
    parts = tvp_job(
        tiny_folder, tmp_path / "pictures", tmp_path / "parts", IN_ORDER, steps=1, batch=1, accumulate=2
    )
    one, two = train_tvp(whole).frame_delta, train_tvp(parts).frame_delta
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_an_example_without_a_picture_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    file = make_llava_json(tmp_path, [{"conversations": talk}])
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    config = tvp_job(tiny_folder, tmp_path, tmp_path / "out", data=data)
    with pytest.raises(ConfigError, match="data: expected a picture in every example"):
        train_tvp(config)
    assert not config.out.exists()
    assert len(open_training(config, checkpoints=[]).data) == 1  # M²PT would take it


def test_an_ensemble_goes_down_the_mean_of_its_models_losses(
    tiny_folder: Path, tiny_clip: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """The first step: task and FCA are means, TSE is the judge's alone."""
    other = make_tiny_idefics3(tmp_path / "idefics3")
    tvp = {**IN_ORDER, "lambda_fca": 0.05, "lambda_tse": 0.01, "clip": str(tiny_clip)}
    logs = {}
    for name, model, also in (
        ("one", tiny_folder, []),
        ("two", other, []),
        ("both", tiny_folder, [str(other)]),
    ):
        config = tvp_job(model, picture_folder, tmp_path / name, {**tvp, "also": also}, steps=2, canary=0)
        bundle = train_tvp(config)
        logs[name] = log_of(config.out)
    for part in ("task", "fca"):
        assert logs["both"][part][0] == pytest.approx((logs["one"][part][0] + logs["two"][part][0]) / 2)
    assert logs["both"]["tse"][0] == pytest.approx(logs["one"]["tse"][0])
    assert bundle.manifest.provenance.config["tvp"]["also"] == [str(other)]


def test_a_perturbation_of_the_whole_picture(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    frame = {"canvas": [64, 64], "inner": 64, "free": "all"}
    config = tvp_job(tiny_folder, picture_folder, tmp_path / "out", {"frame": frame}, steps=1)
    delta = train_tvp(config).frame_delta
    assert delta is not None
    assert (delta[:, 16:48, 16:48] != 0).all()


def test_any_family_trains_and_its_bundle_has_no_canary(picture_folder: Path, tmp_path: Path) -> None:
    """Three steps go down; canaries are made in LLaVA's layout alone."""
    model = make_tiny_onevision(tmp_path / "onevision")
    config = tvp_job(model, picture_folder, tmp_path / "out", {**IN_ORDER}, steps=6, batch=9)
    train_tvp(config)
    loss = log_of(config.out)["loss"]
    assert loss[-1] < loss[0]
    assert not (config.bundle_folder / "canary.json").exists()
