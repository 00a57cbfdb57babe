"""A model's own image preprocessing as a differentiable function of a float picture.

The image processor of a checkpoint resizes, crops and normalises. Here the same steps run in torch on values
of any range, so that a gradient reaches the pixels and a frame outside [0, 1] is never clipped. The result
equals the checkpoint's own processor (torchvision backend, `do_rescale=False`) within 1e-5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from prompts.errors import ConfigError
from prompts.faults import fault

__all__ = ["PixelPipeline"]

RESAMPLE_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class PixelPipeline:
    """Resize, centre crop and normalise, as one checkpoint's image processor does.

    Args:
        resize: (height, width), or one number: the shorter side; None leaves the size.
        resample: mode name of `torch.nn.functional.interpolate`.
        crop: (height, width) of the centre crop, or None.
        mean, std: per channel; None leaves the values.
    """

    resize: tuple[int, int] | int | None
    resample: str
    crop: tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def of_processor(cls, processor: Any) -> "PixelPipeline":
        """Read the steps from a transformers image processor.

        Raises:
            ConfigError: it does something that is not one of these steps.
        """
        faults = []
        if getattr(processor, "do_pad", None):
            cure = "padding to a square is not supported"
            faults.append(fault("do_pad", expected="false", came="true", cure=cure))
        resize, resample = None, 3
        if processor.do_resize:
            resize, resample = _resize_target(_plain_size(processor.size), faults), int(processor.resample)
        if resample not in RESAMPLE_MODES:
            expected, cure = f"one of {sorted(RESAMPLE_MODES)}", "other filters have no gradient here"
            faults.append(fault("resample", expected=expected, came=str(resample), cure=cure))
        if faults:
            raise ConfigError(f"image processor {type(processor).__name__}", faults)
        crop = _plain_size(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
        normalise = bool(processor.do_normalize)
        return cls(
            resize=resize,
            resample=RESAMPLE_MODES[resample],
            crop=(crop["height"], crop["width"]) if crop else None,
            mean=tuple(processor.image_mean) if normalise else None,
            std=tuple(processor.image_std) if normalise else None,
        )

    def __call__(self, canvas: Tensor) -> Tensor:
        """Float pictures (B, 3, H, W), nominally in [0, 1] but of any range, to pixel values (B, 3, h, w)."""
        pixels = self._crop(self._resize(canvas))
        if self.mean is None or self.std is None:
            return pixels
        mean = pixels.new_tensor(self.mean)[:, None, None]
        std = pixels.new_tensor(self.std)[:, None, None]
        return (pixels - mean) / std

    def _resize(self, pixels: Tensor) -> Tensor:
        if self.resize is None:
            return pixels
        height, width = pixels.shape[-2:]
        target = self.resize if isinstance(self.resize, tuple) else _shorter_side(height, width, self.resize)
        if target == (height, width):
            return pixels
        if self.resample == "nearest-exact":
            return F.interpolate(pixels, target, mode=self.resample)
        return F.interpolate(pixels, target, mode=self.resample, align_corners=False, antialias=True)

    def _crop(self, pixels: Tensor) -> Tensor:
        if self.crop is None:
            return pixels
        height, width = self.crop
        short = max(height - pixels.shape[-2], 0), max(width - pixels.shape[-1], 0)
        if any(short):
            pixels = F.pad(pixels, (short[1] // 2, (short[1] + 1) // 2, short[0] // 2, (short[0] + 1) // 2))
        top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
        return pixels[..., top : top + height, left : left + width]


def _plain_size(size: Any) -> dict[str, int]:
    """A processor's size (a number, a mapping or transformers' SizeDict) without its empty entries."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    entries = dict(size) if isinstance(size, Mapping) else dict(vars(size))
    return {key: int(value) for key, value in entries.items() if value is not None}


def _resize_target(size: dict[str, int], faults: list[str]) -> tuple[int, int] | int | None:
    if set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"]
    expected, cure = "height and width, or shortest_edge", "other rules are not supported"
    faults.append(fault("size", expected=expected, came=str(size), cure=cure))
    return None


def _shorter_side(height: int, width: int, target: int) -> tuple[int, int]:
    if height <= width:
        return target, int(target * width / height)
    return int(target * height / width), target
