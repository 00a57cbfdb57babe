"""Random bundles for a tiny model: every kind of task the engine serves, each saved in its own folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from prompts.bundle import Bundle, save_bundle
from prompts.fingerprint import base_model_ref
from prompts.frame import frame_mask
from prompts.manifest import FrameSpec, Manifest, TextSpec, VisionSpec
from tests.engine.tiny_llava import HIDDEN, LAYERS, VISION_HIDDEN, VISION_LAYERS, VOCABULARY

__all__ = ["FRAME", "LLAVA_PROJECTOR", "make_task"]

LLAVA_PROJECTOR = {
    "linear_1.weight": (HIDDEN, VISION_HIDDEN),
    "linear_1.bias": (HIDDEN,),
    "linear_2.weight": (HIDDEN, HIDDEN),
    "linear_2.bias": (HIDDEN,),
}

FRAME = FrameSpec(canvas=(64, 64), inner=44)
"""Not the tower's size: the framed picture goes through the model's own resize."""


def make_task(
    folder: Path,
    name: str,
    model: Path,
    *,
    seed: int,
    text: int = 0,
    vision: int = 0,
    mode: Literal["released", "paper"] = "released",
    projector: bool | Mapping[str, tuple[int, ...]] = False,
    lm_head: bool = False,
    frame: bool | FrameSpec = False,
    hidden: int = HIDDEN,
) -> Bundle:
    """Saves `folder/name`, random but for its seed; lengths of 0 leave the part out.

    `projector`: True is LLaVA's, else name -> shape. `frame`: True is `FRAME`.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    if text:
        tensors["text.prompts"] = torch.randn(LAYERS, text, hidden, generator=generator)
    if vision:
        tensors["vision.prompts"] = torch.randn(VISION_LAYERS, vision, VISION_HIDDEN, generator=generator)
    if projector:
        tensors |= _make_projector(generator, LLAVA_PROJECTOR if projector is True else projector)
    if lm_head:
        tensors["lm_head.weight"] = 0.15 * torch.randn(VOCABULARY, HIDDEN, generator=generator)
    spec = FRAME if frame is True else frame or None
    if spec:
        noise = torch.randn(3, *spec.canvas, generator=generator)
        tensors["frame.delta"] = 1.5 * noise * frame_mask(spec)
    manifest = Manifest(
        name=name,
        version="1",
        base_model=base_model_ref(model) if text or vision or projector else None,
        frame=spec,
        text=TextSpec(layers=LAYERS, length=text, hidden=hidden) if text else None,
        vision=(
            VisionSpec(layers=VISION_LAYERS, length=vision, hidden=VISION_HIDDEN, mode=mode)
            if vision
            else None
        ),
        projector=bool(projector),
        lm_head=lm_head,
    )
    return save_bundle(folder / name, manifest, tensors)


def _make_projector(generator: torch.Generator, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {
        f"projector.{name}": 0.15 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
