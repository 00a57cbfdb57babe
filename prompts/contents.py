"""Which tensors a bundle must hold, and every way in which they can be wrong.

frame.delta      (3, H, W) float32, zero under the picture (TVP)
text.prompts     (L, P, d)          (M²PT, textual)
vision.prompts   (L_v, P_v, d_v)    (M²PT, visual)
projector.NAME   the model's own multi_modal_projector, each parameter under its name there
lm_head.weight   (vocabulary, d)
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prompts.faults import fault, shown
from prompts.frame import frame_mask
from prompts.manifest import FrameSpec, Manifest, TextSpec, VisionSpec

__all__ = [
    "DTYPES",
    "FRAME",
    "LM_HEAD",
    "PROJECTOR",
    "TEXT",
    "VISION",
    "Declared",
    "shape_faults",
    "value_faults",
]

FRAME = "frame.delta"
TEXT = "text.prompts"
VISION = "vision.prompts"
LM_HEAD = "lm_head.weight"
PROJECTOR = "projector."

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes a bundle may hold, by their safetensors names."""

_SECTIONS = {FRAME: "frame", TEXT: "text", VISION: "vision", LM_HEAD: "lm_head"}
_PROJECTOR_NAME = re.compile(r"projector(\.[A-Za-z0-9_]+)+")
_MAX_DIMENSIONS = 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Declared:
    """What a manifest says the tensors are. `unsure`: sections whose own description is faulty."""

    frame: FrameSpec | None = None
    text: TextSpec | None = None
    vision: VisionSpec | None = None
    projector: bool = False
    lm_head: bool = False
    unsure: frozenset[str] = frozenset()

    @classmethod
    def of(cls, manifest: Manifest) -> "Declared":
        """Return what a valid manifest declares."""
        return cls(manifest.frame, manifest.text, manifest.vision, manifest.projector, manifest.lm_head)

    def has(self, section: str) -> bool:
        """Return whether the manifest declares a section (`frame`, `text`, `projector` …)."""
        return bool(getattr(self, section))


def shape_faults(declared: Declared, described: Mapping[str, tuple[str, Shape]]) -> list[str]:
    """Return the faults in names, dtypes and shapes. `described`: name -> (safetensors dtype, shape)."""
    faults = [*_missing(declared, described)]
    for name in sorted(described):
        dtype, shape = described[name]
        faults += _name_faults(declared, name) or _one_tensor(declared, name, dtype, shape)
    return faults


def value_faults(declared: Declared, name: str, tensor: Tensor) -> list[str]:
    """Return the faults in one tensor's values: NaN, Inf, and for the frame its free border and range."""
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        return [
            _spoilt(name, tensor, ~finite, expected="finite values", cure="train again from a good state")
        ]
    spec = declared.frame
    if name != FRAME or spec is None or tuple(tensor.shape) != (3, *spec.canvas):
        return []
    faults = []
    inside = (tensor != 0) & ~frame_mask(spec)
    if bool(inside.any()):
        expected = f"zero under the picture (the inner {spec.inner}x{spec.inner})"
        faults.append(
            _spoilt(name, tensor, inside, expected=expected, cure="multiply it by frame_mask(spec)")
        )
    outside = (tensor < 0) | (tensor > 1)
    if spec.value_range == "unit" and bool(outside.any()):
        expected = "values in [0, 1] (frame.value_range is unit)"
        faults.append(_spoilt(name, tensor, outside, expected=expected, cure="project it, or say unbounded"))
    return faults


def _spoilt(name: str, tensor: Tensor, bad: Tensor, *, expected: str, cure: str) -> str:
    first = tuple(int(i) for i in bad.nonzero()[0])
    came = f"{int(bad.sum())} others, the first {float(tensor[first]):.6g} at {list(first)}"
    return fault(name, expected=expected, came=came, cure=cure)


def _missing(declared: Declared, described: Mapping[str, tuple[str, Shape]]) -> Iterator[str]:
    for name, section in _SECTIONS.items():
        if declared.has(section) and name not in described:
            yield _absent(name, section)
    if declared.projector and not any(name.startswith(PROJECTOR) for name in described):
        yield _absent(f"{PROJECTOR}*", "projector")


def _absent(name: str, section: str) -> str:
    return fault(
        name,
        expected=f"a tensor (the manifest has {section})",
        came="none",
        cure=f"add the tensor or take {section} out of the manifest",
    )


def _name_faults(declared: Declared, name: str) -> list[str]:
    section = "projector" if _PROJECTOR_NAME.fullmatch(name) else _SECTIONS.get(name)
    if section is None:
        known = ", ".join([*_SECTIONS, f"{PROJECTOR}NAME"])
        cure = "remove the tensor or correct its name"
        return [fault(f"tensor {shown(name)}", expected=f"a name among {known}", came="another", cure=cure)]
    if declared.has(section) or section in declared.unsure:
        return []
    expected = f"no such tensor (the manifest has no {section})"
    return [fault(name, expected=expected, came="one", cure=f"remove the tensor or declare {section}")]


def _one_tensor(declared: Declared, name: str, dtype: str, shape: Shape) -> Iterator[str]:
    allowed = ["F32"] if name == FRAME else list(DTYPES)
    if dtype not in allowed:
        expected = f"dtype {' or '.join(allowed)}"
        yield fault(name, expected=expected, came=dtype, cure="save it in that dtype")
    wanted = _wanted_shape(declared, name)
    if wanted is not None and shape != wanted[0]:
        expected = f"shape {wanted[0]} ({wanted[1]} of the manifest)"
        yield fault(name, expected=expected, came=str(shape), cure="correct the one that is wrong")
    elif not 1 <= len(shape) <= _MAX_DIMENSIONS or 0 in shape:
        expected = f"1 to {_MAX_DIMENSIONS} dimensions, none empty"
        yield fault(name, expected=expected, came=str(shape), cure="save the tensor whole")
    elif name == LM_HEAD:
        yield from _lm_head(declared, shape)


def _wanted_shape(declared: Declared, name: str) -> tuple[Shape, str] | None:
    if name == FRAME and declared.frame is not None:
        return (3, *declared.frame.canvas), "frame.canvas"
    spec = {TEXT: declared.text, VISION: declared.vision}.get(name)
    if spec is None:
        return None
    section = _SECTIONS[name]
    depth = "layers" if spec.at is None else "at"
    shape = (len(spec.layer_indices), spec.length, spec.hidden)
    return shape, f"{section}.{depth}, {section}.length, {section}.hidden"


def _lm_head(declared: Declared, shape: Shape) -> Iterator[str]:
    hidden = "hidden" if declared.text is None else str(declared.text.hidden)
    if len(shape) != 2 or (declared.text is not None and shape[1] != declared.text.hidden):
        expected = f"shape (vocabulary, {hidden})"
        yield fault(LM_HEAD, expected=expected, came=str(shape), cure="save the base model's head, retrained")
