"""Preprocessing as a function of floats: the checkpoint's own processor, and a true gradient."""

import pytest
import torch
from transformers import CLIPImageProcessor, SiglipImageProcessor

from prompts.errors import ConfigError
from training.pixels import PixelPipeline

PROCESSORS = {
    "clip up": CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
    "clip down": CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 40}),
    "crop beyond the picture": CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=61),
    "clip 224": CLIPImageProcessor(),
    "nearest": CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=40, resample=0),
    "siglip": SiglipImageProcessor(size={"height": 56, "width": 42}),
    "bilinear": SiglipImageProcessor(size={"height": 30, "width": 42}, resample=2),
    "as it is": CLIPImageProcessor(do_resize=False, do_center_crop=False),
    "no normalising": CLIPImageProcessor(
        size={"shortest_edge": 96}, do_center_crop=False, do_normalize=False
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(64, 64), (64, 80), (81, 64), (224, 224)])
def test_equals_the_processor_on_values_of_any_range(name: str, shape: tuple[int, int]) -> None:
    """Tolerance of issue 2: 1e-5. A frame leaves [0, 1] by far, so the values do."""
    canvas = 4 * torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) - 1.5
    processor = PROCESSORS[name]
    expected = processor(list(canvas), do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(PixelPipeline.of_processor(processor)(canvas), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip up", "clip down", "siglip", "bilinear"])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    pipeline = PixelPipeline.of_processor(PROCESSORS[name])
    generator = torch.Generator().manual_seed(1)
    canvas = torch.rand(1, 3, 24, 24, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(pipeline(canvas).shape, generator=generator, dtype=torch.float64)

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return (pipeline(pixels).square() * weights).sum()

    (gradient,) = torch.autograd.grad(loss(canvas), canvas)
    for _ in range(3):
        direction = torch.randn(canvas.shape, generator=generator, dtype=torch.float64)
        step = 1e-5 * direction
        slope = (loss(canvas + step) - loss(canvas - step)) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), slope.detach(), rtol=1e-6, atol=1e-6)


def test_a_step_it_does_not_know_is_refused_by_name() -> None:
    processor = CLIPImageProcessor(size={"longest_edge": 40, "shortest_edge": 20}, do_pad=True, resample=1)
    with pytest.raises(ConfigError) as refused:
        PixelPipeline.of_processor(processor)
    assert {line.partition(":")[0] for line in refused.value.faults} == {"do_pad", "resample", "size"}
