"""Prompts as the papers' own code saves them, made into bundles. Offline: nothing that serves imports this.

TVP: a `.pth` with one tensor `perturbation` (3, H, W), zero but for the frame.
M²PT: the state dict of a tuned LLaVA, in one file or in the shards of a folder: `model.prompts.{l}`
(1, P_t, d), `….vision_model.encoder.prompts.{l}` (1, P_v, d_v), `model.mm_projector.*`, `lm_head.weight`.
The released projector is one linear layer (`weight`, `bias`), that of transformers' LLaVA two with an
activation f between them. All of f that LLaVA uses are x · s(x) with s(x) + s(−x) = 1, so f(x) − f(−x) = x,
and two layers can be the one exactly: W x = [W, −W] f([x, −x]).
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from prompts.bundle import Bundle, save_bundle
from prompts.contents import FRAME, LM_HEAD, PROJECTOR, TEXT, VISION
from prompts.errors import InputError
from prompts.faults import in_one_line, shown, validation_faults
from prompts.fingerprint import base_model_ref
from prompts.manifest import FrameSpec, Manifest, Provenance, TextSpec, VisionSpec
from prompts.weights import read_weights, refused, storable

__all__ = ["import_m2pt", "import_tvp"]

_PERTURBATION = "perturbation"
_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
_OF_THE_TRAINER = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*)\.(bin|pt|pth)")
"""What transformers' Trainer leaves beside the weights."""
_NAMES = {
    TEXT: re.compile(r"(?:.*\.)?model\.prompts\.(\d+)"),
    VISION: re.compile(r"(?:.*\.)?vision_model\.encoder\.prompts\.(\d+)"),
    PROJECTOR: re.compile(r"(?:.*\.)?mm_projector\.(.+)"),
    LM_HEAD: re.compile(r"(?:.*\.)?lm_head\.(weight)"),
}
"""Part of a bundle -> M²PT's name, whatever wrappers stand before it, and what of the part that is."""
_LAYERS_OF_PROJECTOR = {"0": "linear_1", "2": "linear_2"}
"""LLaVA's own names (an activation is number 1) -> those of transformers' LLaVA."""
_SPLITTABLE = {"gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish"}
"""Activations f with f(x) − f(−x) = x."""


def import_tvp(source: Path, out: Path, *, name: str, inner: int = 164) -> Bundle:
    """Makes a bundle of a released TVP frame; it needs no base model.

    Args:
        inner: side of the picture inside the frame, in pixels.

    Raises:
        InputError: no such file, or none with a perturbation.
        BundleError: the perturbation is no frame of that geometry.
    """
    read = read_weights(source)
    delta = read if isinstance(read, Tensor) else read.get(_PERTURBATION)
    shape = None if delta is None else tuple(delta.shape[delta.ndim == 4 :])
    if delta is None or shape is None or len(shape) != 3 or delta.numel() != torch.Size(shape).numel():
        came = "none" if delta is None else f"shape {tuple(delta.shape)}"
        raise refused(source, f"a tensor {_PERTURBATION!r} of (3, H, W)", came, "give TVP's saved prompt")
    try:
        frame = FrameSpec(canvas=(shape[1], shape[2]), inner=inner)
    except ValidationError as error:
        raise InputError(f"{source.name}: {in_one_line(validation_faults(error))}") from error
    manifest = Manifest(
        name=name,
        version="1",
        description="A TVP frame, imported",
        frame=frame,
        provenance=Provenance(method="tvp", data={"imported_from": source.name}),
    )
    return save_bundle(out, manifest, {FRAME: delta.reshape(shape).float()})


def import_m2pt(
    source: Path,
    out: Path,
    *,
    name: str,
    base: Path,
    mode: Literal["released", "paper"] = "released",
    projector: bool = True,
    lm_head: bool = False,
) -> Bundle:
    """Makes a bundle of M²PT's state dict, trained in the checkpoint in `base`.

    Args:
        projector, lm_head: whether to take those parts, where they are there.

    Raises:
        InputError: no such file, nothing of M²PT's in it, layers missing or of different shapes, a projector
            that transformers' LLaVA cannot be.
        BaseModelError: `base` holds no checkpoint.
    """
    state = _read_all(source)
    tensors = {
        TEXT: _stacked(source, "model.prompts", state[TEXT]),
        VISION: _stacked(source, "vision_model.encoder.prompts", state[VISION]),
        LM_HEAD: state[LM_HEAD].get("weight") if lm_head else None,
        **(_projector(source, state[PROJECTOR], base) if projector else {}),
    }
    held = {name: storable(tensor) for name, tensor in tensors.items() if tensor is not None}
    if not held:
        expected = "model.prompts.*, vision_model.encoder.prompts.* or mm_projector.*"
        raise refused(source, expected, "nothing of the kind", "give M²PT's saved weights")
    manifest = Manifest(
        name=name,
        version="1",
        description="An M²PT prompt, imported",
        base_model=base_model_ref(base),
        text=_text_spec(held.get(TEXT)),
        vision=_vision_spec(held.get(VISION), mode),
        projector=any(one.startswith(PROJECTOR) for one in held),
        lm_head=LM_HEAD in held,
        provenance=Provenance(method="m2pt", data={"imported_from": source.name}),
    )
    return save_bundle(out, manifest, held)


def _text_spec(prompts: Tensor | None) -> TextSpec | None:
    if prompts is None:
        return None
    layers, length, hidden = prompts.shape
    return TextSpec(layers=layers, length=length, hidden=hidden)


def _vision_spec(prompts: Tensor | None, mode: Literal["released", "paper"]) -> VisionSpec | None:
    if prompts is None:
        return None
    layers, length, hidden = prompts.shape
    return VisionSpec(layers=layers, length=length, hidden=hidden, mode=mode)


def _projector_activation(base: Path) -> str:
    """What stands between the two layers of the base model's projector, by transformers' name."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}  # said by `base_model_ref`
    return str(config.get("projector_hidden_act", "gelu")) if isinstance(config, dict) else "gelu"


def _stacked(source: Path, what: str, numbered: Mapping[str, Tensor]) -> Tensor | None:
    """(L, P, d) of a (1, P, d) per layer; None where there is none."""
    by_layer = {int(number): tensor for number, tensor in numbered.items()}
    if not by_layer:
        return None
    missing = sorted(set(range(max(by_layer) + 1)) - by_layer.keys())
    if missing:
        cure = "give all shards of the checkpoint, in one folder"
        raise refused(source, f"{what} of every layer", f"none of {shown(missing)}", cure)
    shapes = sorted({tuple(tensor.shape) for tensor in by_layer.values()})
    if len(shapes) > 1 or len(shapes[0]) != 3 or shapes[0][0] != 1:
        cure = "give weights that M²PT's own code saved"
        raise refused(source, f"{what}: (1, P, d) in every layer", shown(shapes), cure)
    return torch.cat([by_layer[layer] for layer in sorted(by_layer)])


def _projector(source: Path, found: Mapping[str, Tensor], base: Path) -> dict[str, Tensor]:
    if "weight" in found and found.keys() <= {"weight", "bias"}:
        activation = _projector_activation(base)
        if activation not in _SPLITTABLE:
            expected = f"a base model with projector_hidden_act one of {', '.join(sorted(_SPLITTABLE))}"
            raise refused(source, expected, activation, "leave it out with --no-projector")
        return _as_two_layers(source, found["weight"], found.get("bias"))
    renamed = {}
    for inner, tensor in found.items():
        layer, _, parameter = inner.partition(".")
        if layer not in _LAYERS_OF_PROJECTOR or parameter not in ("weight", "bias"):
            expected = "mm_projector of one layer (weight, bias) or two (0 and 2)"
            raise refused(source, expected, f"mm_projector.{inner}", "leave it out with --no-projector")
        renamed[f"{PROJECTOR}{_LAYERS_OF_PROJECTOR[layer]}.{parameter}"] = tensor
    return renamed


def _as_two_layers(source: Path, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The two layers, d_v -> d -> d, that are the one of `weight` (d, d_v) exactly."""
    if weight.ndim != 2 or weight.shape[0] < 2 * weight.shape[1]:
        expected = "mm_projector.weight (d, d_v) with d at least 2 d_v, to be put into LLaVA's two layers"
        raise refused(source, expected, str(tuple(weight.shape)), "leave it out with --no-projector")
    hidden, inner = weight.shape
    width = 2 * inner
    both_signs = weight.new_zeros(hidden, inner)
    both_signs[:inner], both_signs[inner:width] = torch.eye(inner), -torch.eye(inner)
    difference = weight.new_zeros(hidden, hidden)
    difference[:, :inner], difference[:, inner:width] = weight, -weight
    return {
        f"{PROJECTOR}linear_1.weight": both_signs,
        f"{PROJECTOR}linear_1.bias": weight.new_zeros(hidden),
        f"{PROJECTOR}linear_2.weight": difference,
        f"{PROJECTOR}linear_2.bias": weight.new_zeros(hidden) if bias is None else bias,
    }


def _read_all(source: Path) -> dict[str, dict[str, Tensor]]:
    """Part of a bundle -> its tensors in a file, or in all files of a folder."""
    files: Iterable[Path] = [source]
    if source.is_dir():
        files = sorted(
            path
            for path in source.iterdir()
            if path.suffix in _SUFFIXES and not _OF_THE_TRAINER.fullmatch(path.name)
        )
    state: dict[str, dict[str, Tensor]] = {part: {} for part in _NAMES}
    for file in files:
        read = read_weights(file)
        if isinstance(read, Tensor):
            raise refused(file, "tensors by name", "one without a name", "give M²PT's saved weights")
        _add(file, state, read)
    return state


def _add(file: Path, state: Mapping[str, dict[str, Tensor]], read: Mapping[str, Tensor]) -> None:
    """Two files of different trainings in one folder must not become one prompt."""
    twice = []
    for name, tensor in read.items():
        for part, pattern in _NAMES.items():
            match = pattern.fullmatch(name)  # the rest of a large model's weights is let go of
            if match and state[part].setdefault(match[1], tensor) is not tensor:
                twice.append(name)
    if twice:
        cure = "leave one training's files in the folder"
        came = f"{shown(sorted(twice)[:3])} twice"
        raise refused(file, "each tensor once, in all files together", came, cure)
