"""Gradient checkpointing, bfloat16 and accumulation: the same lesson in less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prompts.deep import xavier_prompts
from tests.engine.tiny_llava import HIDDEN, LAYERS, VISION_HIDDEN, VISION_LAYERS
from tests.training.conftest import random_picture
from tests.training.jobs import QUESTION, m2pt_job
from training.backbone import DeepPrompts, LlavaBackbone
from training.m2pt import train_m2pt


def loss_and_gradients(backbone: LlavaBackbone) -> tuple[Tensor, list[Tensor], int]:
    """Of one picture under prompts at some layers; and the bytes that were kept for the way back."""
    generator = torch.Generator().manual_seed(0)
    text = xavier_prompts(LAYERS, 3, HIDDEN, generator)[:2].requires_grad_()
    vision = xavier_prompts(VISION_LAYERS, 2, VISION_HIDDEN, generator).requires_grad_()
    projector = {n: p.detach().clone().requires_grad_() for n, p in backbone.projector.named_parameters()}
    deep = DeepPrompts(text=text, text_at=(0, 2), vision=vision, projector=projector)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone.image_features(backbone.process([random_picture(0)]), deep)
        encoded = backbone.chat.encode(backbone.chat.render(QUESTION, picture=True), "seven")
        loss = backbone.answer_loss(backbone.collate([encoded], features), features, deep)
    loss.backward()
    gradients = [tensor.grad for tensor in (text, vision, *projector.values())]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    return loss.detach(), [g for g in gradients if g is not None], sum(kept.values())


def test_checkpointing_changes_memory_alone(tiny_folder: Path) -> None:
    backbone = LlavaBackbone.load(tiny_folder, dtype="float32", device="cpu")
    loss, gradients, kept = loss_and_gradients(backbone)
    backbone.checkpoint_layers()
    again, same, less = loss_and_gradients(backbone)
    torch.testing.assert_close(again, loss)
    for one, other in zip(same, gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert less < kept / 3


def test_a_checkpointing_job_learns_the_same(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "validation": {"kind": "image_folder", "root": str(picture_folder), "limit": 3}
    }
    plain = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "plain", **settings))
    settings["gradient_checkpointing"] = True
    less = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "less", **settings))
    assert less.manifest.metrics == plain.manifest.metrics
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(less.tensors[name], tensor)


def test_a_bfloat16_base_learns_in_float32(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    """Steps of 1e-7 are far below what bfloat16 can tell apart around one value of the prompts."""
    config = m2pt_job(
        tiny_folder, picture_folder, tmp_path / "out", dtype="bfloat16", lr=1e-7, warmup=0.0, steps=1
    )
    train_m2pt(config)
    saved = torch.load(config.out / "checkpoint.pt", weights_only=True)["tensors"]["text.prompts"]
    begun = xavier_prompts(LAYERS, 3, HIDDEN, torch.Generator().manual_seed(42))
    assert saved.dtype == torch.float32
    assert (saved - begun).abs().max().item() == pytest.approx(1e-7, rel=0.1)


def test_two_passes_of_one_are_one_of_two(tiny_folder: Path, tmp_path: Path) -> None:
    """The answers have as many tokens each, so that the mean of two means is the mean of all."""
    (tmp_path / "pictures" / "heron").mkdir(parents=True)
    for number in range(2):
        random_picture(number).save(tmp_path / "pictures" / "heron" / f"{number}.png")
    moments = []
    for batch, accumulate in ((2, 1), (1, 2)):
        out, settings = tmp_path / str(batch), {"batch": batch, "accumulate": accumulate}
        train_m2pt(m2pt_job(tiny_folder, tmp_path / "pictures", out, steps=1, **settings))
        states = torch.load(out / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
        moments.append([state["exp_avg"] for state in states.values()])
    for one, other in zip(*moments, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
