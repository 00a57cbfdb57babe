"""From pictures to a model's input, through the checkpoint's own image processor.

Pictures as files come in 8 bit. A framed picture is a float tensor of any range: the processor's torchvision
steps (resize, crop, tiles, normalise) then run on it as they are, so that a gradient reaches its pixels and
nothing is clipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend

from prompts.errors import ConfigError
from prompts.faults import fault

__all__ = ["PictureInputs", "of_canvas", "of_pictures"]


@dataclass(frozen=True)
class PictureInputs:
    """Pictures after the image processor.

    Attributes:
        tensors: `pixel_values` and what else the model takes with it (`image_sizes`, `image_grid_thw`, …).
        sizes: (width, height) of each picture before, in pixels.
    """

    tensors: dict[str, Tensor]
    sizes: tuple[tuple[int, int], ...]

    @property
    def pixels(self) -> Tensor:
        """`pixel_values`, (B, 3, h, w) where the layout has no tiles."""
        return self.tensors["pixel_values"]


def of_pictures(image_processor: Any, pictures: Sequence[Image.Image]) -> PictureInputs:
    """What a plain request's pictures become."""
    processed = image_processor([picture.convert("RGB") for picture in pictures], return_tensors="pt")
    return PictureInputs(_tensors(processed), tuple(picture.size for picture in pictures))


def of_canvas(image_processor: Any, canvas: Tensor) -> PictureInputs:
    """What float pictures (B, 3, H, W), nominally in [0, 1] but of any range, become; differentiable.

    Raises:
        ConfigError: the processor works on arrays, through which no gradient goes.
    """
    if not isinstance(image_processor, TorchvisionBackend):
        expected, came = "one that works on tensors (torchvision)", type(image_processor).__name__
        cure = "load the checkpoint's torchvision processor, or train on another model"
        raise ConfigError("model", [fault("image processor", expected=expected, came=came, cure=cure)])
    processed = image_processor(list(canvas), do_rescale=False, return_tensors="pt")
    height, width = canvas.shape[-2:]
    return PictureInputs(_tensors(processed), ((width, height),) * len(canvas))


def _tensors(processed: Any) -> dict[str, Tensor]:
    return {name: value for name, value in processed.items() if isinstance(value, Tensor)}
