"""The TVP frame: where it stands, how a picture is fitted into it, how it is put on.

A picture is resized so that its shorter side is `inner`, cropped to `inner` × `inner` and padded with zeros
to the canvas; the learned `delta` is added in float, before the model's own resize and normalisation (TVP,
"Exploring the Transferability of Visual Prompting for Multimodal Large Language Models", CVPR 2024). The
frame stands on the padding: no picture pixel is touched, and nothing is clipped.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from prompts.errors import NoFrameError, PictureError, UnsupportedError
from prompts.faults import fault
from prompts.manifest import FrameSpec
from prompts.picture import to_rgb

if TYPE_CHECKING:
    from prompts.bundle import Bundle

__all__ = [
    "MAX_ASPECT",
    "apply_frame",
    "border",
    "fit_picture",
    "frame_mask",
    "frame_picture",
    "framed_image",
    "preview",
    "resized_size",
    "to_display",
]

MAX_ASPECT = 100
"""Longest side over shortest that is accepted: beyond it the resized picture would be huge for nothing."""

_GREY, _DARKER_GREY = (160, 160, 160), (120, 120, 120)
_GAP_PIXELS = 8

Crop = Literal["centre"] | tuple[int, int]

_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def border(spec: FrameSpec) -> tuple[int, int]:
    """Return (left, top): where in the canvas the picture starts, in pixels."""
    height, width = spec.canvas
    return (width - spec.inner) // 2, (height - spec.inner) // 2


def frame_mask(spec: FrameSpec) -> Tensor:
    """Return the free frame, bool (1, H, W): True where `delta` may differ from zero."""
    left, top = border(spec)
    mask = torch.ones(1, *spec.canvas, dtype=torch.bool)
    if spec.free == "all":
        return mask
    mask[:, top : top + spec.inner, left : left + spec.inner] = False
    return mask


def resized_size(size: tuple[int, int], spec: FrameSpec) -> tuple[int, int]:
    """Return (width, height) of an upright picture of `size` = (width, height) after resizing.

    The shorter side becomes `inner`; the longer is rounded down, as torchvision's `Resize` does.
    """
    width, height = size
    if width <= height:
        return spec.inner, spec.inner * height // width
    return spec.inner * width // height, spec.inner


def fit_picture(image: Image.Image, spec: FrameSpec, *, crop: Crop = "centre", flip: bool = False) -> Tensor:
    """Return the picture on its zero canvas, float32 (3, H, W) in [0, 1].

    `crop`: the middle, or (left, top) in the resized picture (see `resized_size`), in pixels; `flip`: mirror
    the cropped picture left to right. Turned upright by its EXIF tag; transparency stands on white.

    Raises:
        PictureError: one side is more than `MAX_ASPECT` times the other, or the mode has no colours.
        ValueError: `crop` leaves the resized picture.
    """
    upright = to_rgb(image)
    if max(upright.size) > MAX_ASPECT * min(upright.size):
        expected = f"sides within {MAX_ASPECT}:1 of each other"
        came = f"{upright.width} x {upright.height} pixels"
        raise PictureError(fault("picture", expected=expected, came=came, cure="crop it"))
    resized = upright.resize(resized_size(upright.size, spec), _RESAMPLE[spec.resample])
    left, top = _crop_corner(resized.size, spec.inner, crop)
    cropped = resized.crop((left, top, left + spec.inner, top + spec.inner))
    if flip:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(cropped, dtype=np.float32) / 255.0).permute(2, 0, 1)
    canvas = torch.zeros(3, *spec.canvas)
    x, y = border(spec)
    canvas[:, y : y + spec.inner, x : x + spec.inner] = pixels
    return canvas


def apply_frame(padded: Tensor, delta: Tensor) -> Tensor:
    """Return `padded` (..., 3, H, W) with `delta` (3, H, W) added; differentiable, never clipped.

    Raises:
        ValueError: the last three axes differ.
    """
    if padded.shape[-3:] != delta.shape:
        raise ValueError(
            f"padded: expected (..., {', '.join(map(str, delta.shape))}), came {tuple(padded.shape)}"
        )
    return padded + delta


def frame_picture(image: Image.Image, spec: FrameSpec, delta: Tensor) -> Tensor:
    """Return the framed picture, float32 (3, H, W), as a server puts it before the model: centre crop."""
    return apply_frame(fit_picture(image, spec), delta)


def to_display(pixels: Tensor) -> Image.Image:
    """Return `pixels` (3, H, W) in [0, 1] as an 8-bit picture for people: clipped, so no model's input."""
    levels = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def framed_image(bundle: "Bundle", picture: Image.Image) -> Image.Image:
    """Return the framed picture as an ordinary RGB one of 8 bits, W × H: any API may be asked with it.

    Only for a frame of `value_range: unit`, whose values 8 bits hold; rounding moves each by 1/510 at most.

    Raises:
        NoFrameError: the task has no frame.
        UnsupportedError: the frame is unbounded, or the task has prompts inside the model beside it.
        PictureError: see `fit_picture`.
    """
    spec, delta = bundle.manifest.frame, bundle.frame_delta
    if spec is None or delta is None:
        raise NoFrameError(bundle.name)
    if spec.value_range != "unit":
        came = f"{spec.value_range}: 8 bits would cut off what was learned outside [0, 1]"
        cure = "train with value_range: unit, or serve it with `passepartout serve`"
        raise UnsupportedError(fault("frame.value_range", expected="unit", came=came, cure=cure))
    if bundle.manifest.base_model is not None:
        came, cure = "prompts inside the model beside it", "serve it with `passepartout serve`"
        raise UnsupportedError(fault("bundle", expected="a frame alone", came=came, cure=cure))
    return to_display(frame_picture(picture, spec, delta))


def preview(bundle: "Bundle", picture: Image.Image | None = None) -> Image.Image:
    """Draw a task's frame for people: around a grey placeholder (W × H), or before and after side by side.

    Raises:
        NoFrameError: the task has no frame.
        PictureError: see `fit_picture`.
    """
    spec, delta = bundle.manifest.frame, bundle.frame_delta
    if spec is None or delta is None:
        raise NoFrameError(bundle.name)
    if picture is None:
        return to_display(apply_frame(fit_picture(_placeholder(spec.inner), spec), delta))
    before = fit_picture(picture, spec)
    return _side_by_side(to_display(before), to_display(apply_frame(before, delta)))


def _placeholder(side: int) -> Image.Image:
    drawn = Image.new("RGB", (side, side), _GREY)
    pen = ImageDraw.Draw(drawn)
    for start, end in (((0, 0), (side - 1, side - 1)), ((0, side - 1), (side - 1, 0))):
        pen.line((start, end), fill=_DARKER_GREY)
    return drawn


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + _GAP_PIXELS + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + _GAP_PIXELS, 0))
    return both


def _crop_corner(size: tuple[int, int], inner: int, crop: Crop) -> tuple[int, int]:
    width, height = size
    if crop == "centre":
        return round((width - inner) / 2), round((height - inner) / 2)
    left, top = crop
    if not (0 <= left <= width - inner and 0 <= top <= height - inner):
        raise ValueError(
            f"crop: expected left in 0..{width - inner} and top in 0..{height - inner}, came {crop}"
        )
    return left, top
