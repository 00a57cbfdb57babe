"""Small bundles for tests: every part a bundle may carry, in a few hundred numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prompts.bundle import Bundle, save_bundle
from prompts.errors import BundleError
from prompts.frame import frame_mask
from prompts.manifest import BaseModelRef, FrameSpec, Manifest, TextSpec, Usage, VisionSpec

BASE = BaseModelRef(architecture="LlavaForConditionalGeneration", fingerprint=f"sha256:{'0' * 64}", id="tiny")
SPEC = FrameSpec(canvas=(16, 20), inner=8)


def whole_manifest(**changes: Any) -> Manifest:
    """A manifest that declares every part, with `changes`."""
    fields: dict[str, Any] = {
        "name": "whole",
        "version": "1.0",
        "base_model": BASE,
        "frame": SPEC,
        "text": TextSpec(layers=2, length=3, hidden=4),
        "vision": VisionSpec(layers=2, length=2, hidden=6, mode="released"),
        "projector": True,
        "lm_head": True,
        "usage": Usage(system="Be brief.", template="Name it: {text}", choices=("cat", "dog")),
    }
    return Manifest(**fields | changes)


def whole_tensors() -> dict[str, Tensor]:
    """The tensors of `whole_manifest`: reproducible, of all three dtypes, the frame beyond [0, 1]."""
    generator = torch.Generator().manual_seed(7)
    delta = torch.linspace(-2, 2, 3 * 16 * 20).reshape(3, 16, 20)
    return {
        "frame.delta": delta * frame_mask(SPEC),
        "text.prompts": torch.randn(2, 3, 4, generator=generator).half(),
        "vision.prompts": torch.randn(2, 2, 6, generator=generator).bfloat16(),
        "projector.linear_1.weight": torch.randn(4, 6, generator=generator),
        "projector.linear_1.bias": torch.randn(4, generator=generator),
        "lm_head.weight": torch.randn(5, 4, generator=generator),
    }


def save_whole(folder: Path, **changes: Any) -> Bundle:
    """Save a whole bundle at `folder`."""
    return save_bundle(folder, whole_manifest(**changes), whole_tensors())


def save_frame(folder: Path, name: str, *, scale: float = 1.0) -> Bundle:
    """Save a bundle that is a frame alone."""
    manifest = Manifest(name=name, version="1", frame=SPEC)
    return save_bundle(folder, manifest, {"frame.delta": scale * frame_mask(SPEC).expand(3, 16, 20).float()})


def edit_json(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a saved bundle.json behind the library's back."""
    raw = json.loads((folder / "bundle.json").read_text())
    edit(raw)
    (folder / "bundle.json").write_text(json.dumps(raw))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change a saved tensors.safetensors behind the library's back."""
    tensors = load_file(folder / "tensors.safetensors")
    edit(tensors)
    save_file(tensors, folder / "tensors.safetensors")


def faults_of(load: Callable[[Path], object], folder: Path) -> list[str]:
    """The faults with which `load` refuses `folder`; none where it does not."""
    try:
        load(folder)
    except BundleError as error:
        return error.faults
    return []
