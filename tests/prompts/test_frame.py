"""Frame geometry and arithmetic: the paper's numbers, torchvision's pixels, nothing clipped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from prompts.bundle import save_bundle
from prompts.errors import NoFrameError, PictureError, UnsupportedError
from prompts.frame import (
    apply_frame,
    border,
    fit_picture,
    frame_mask,
    frame_picture,
    framed_image,
    preview,
    resized_size,
    to_display,
)
from prompts.manifest import FrameSpec, Manifest, TextSpec
from tests.prompts.sample import BASE, save_frame, save_whole

PAPER = FrameSpec()
FREE_VALUES = 69_840  # METHODS, TVP: learned values of a 30-pixel frame on 3 x 224 x 224


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_papers_frame() -> None:
    mask = frame_mask(PAPER)
    assert mask.shape == (1, 224, 224)
    assert mask.dtype == torch.bool
    assert 3 * int(mask.sum()) == FREE_VALUES
    assert border(PAPER) == (30, 30)
    assert mask[0, 29, 100]
    assert not mask[0, 30, 30]
    assert not mask[0, 193, 193]
    assert mask[0, 100, 194]


def test_an_uneven_canvas_has_its_picture_in_the_middle() -> None:
    spec = FrameSpec(canvas=(11, 16), inner=8)
    assert border(spec) == (4, 1)
    assert int((~frame_mask(spec)).sum()) == 64


@pytest.mark.parametrize("size", [(164, 164), (300, 200), (200, 301), (97, 64), (165, 224), (1000, 163)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_the_centre_crop_is_torchvisions(size: tuple[int, int], resample: str) -> None:
    """The released code resizes, crops and pads with torchvision's transforms on PIL pictures."""
    reference = transforms.Compose(
        [
            transforms.Resize(164, interpolation=transforms.InterpolationMode(resample)),
            transforms.CenterCrop(164),
            transforms.ToTensor(),
            transforms.Pad(30),
        ]
    )
    fitted = fit_picture(noise(*size), FrameSpec.model_validate({"resample": resample}))
    assert fitted.dtype == torch.float32
    assert torch.equal(fitted, reference(noise(*size)))


def test_a_corner_crop_and_a_mirror() -> None:
    spec = FrameSpec(canvas=(10, 10), inner=8)
    picture = noise(20, 8)
    assert resized_size(picture.size, spec) == (20, 8)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    fitted = fit_picture(picture, spec, crop=(5, 0))
    assert torch.equal(fitted[:, 1:9, 1:9], pixels[:, :, 5:13])
    mirrored = fit_picture(picture, spec, crop=(5, 0), flip=True)
    assert torch.equal(mirrored[:, 1:9, 1:9], pixels[:, :, 5:13].flip(-1))
    assert float((fitted * frame_mask(spec)).abs().sum()) == 0


@pytest.mark.parametrize("crop", [(13, 0), (-1, 0), (0, 1)])
def test_a_crop_outside_the_picture_is_refused(crop: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"left in 0\.\.12 and top in 0\.\.0"):
        fit_picture(noise(20, 8), FrameSpec(canvas=(10, 10), inner=8), crop=crop)


def test_a_ribbon_is_refused_before_it_is_resized() -> None:
    with pytest.raises(PictureError, match="20000 x 1 pixels"):
        fit_picture(Image.new("RGB", (20_000, 1)), PAPER)


def test_the_frame_is_added_in_float_and_never_clipped() -> None:
    delta = torch.full((3, 224, 224), 2.04) * frame_mask(PAPER)
    delta[0] = -1.73 * frame_mask(PAPER)[0]
    picture = noise(200, 200)
    framed = frame_picture(picture, PAPER, delta)
    assert float(framed.max()) == pytest.approx(2.04)
    assert float(framed.min()) == pytest.approx(-1.73)
    inside = ~frame_mask(PAPER).expand(3, -1, -1)
    assert torch.equal(framed[inside], fit_picture(picture, PAPER)[inside])
    assert torch.equal(framed[~inside], delta[~inside])


def test_a_batch_is_framed_with_gradients() -> None:
    delta = torch.zeros(3, 10, 10, requires_grad=True)
    apply_frame(torch.rand(4, 3, 10, 10), delta).sum().backward()
    assert delta.grad is not None
    assert torch.equal(delta.grad, torch.full((3, 10, 10), 4.0))


@pytest.mark.parametrize("shape", [(3, 9, 10), (1, 10, 10), (10, 10)])
def test_a_frame_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 3, 10, 10\)"):
        apply_frame(torch.zeros(shape), torch.zeros(3, 10, 10))


def test_display_clips_to_eight_bits() -> None:
    pixels = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0]).expand(3, 1, 5)
    assert np.array(to_display(pixels))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_preview_alone_and_side_by_side(tmp_path: Path) -> None:
    bundle = save_frame(tmp_path / "task", "task")
    alone = preview(bundle)
    assert alone.size == (20, 16)
    assert alone.getpixel((0, 0)) == (255, 255, 255)
    assert alone.getpixel((10, 5)) == (160, 160, 160)
    both = preview(bundle, Image.new("RGB", (40, 40), "red"))
    assert both.size == (20 + 8 + 20, 16)
    assert both.getpixel((0, 0)) == (0, 0, 0)
    assert both.getpixel((28, 0)) == (255, 255, 255)
    assert both.getpixel((10, 8)) == both.getpixel((38, 8)) == (255, 0, 0)


def test_a_task_without_a_frame_has_no_preview(tmp_path: Path) -> None:
    whole = save_whole(tmp_path / "whole")
    frameless = whole.manifest.model_copy(update={"frame": None, "base_model": BASE})
    with pytest.raises(NoFrameError, match="task 'whole' to carry a frame"):
        preview(type(whole)(frameless, {}, whole.digest))


def test_where_all_is_free_the_picture_is_too() -> None:
    spec = FrameSpec(canvas=(10, 10), inner=10, free="all")
    assert frame_mask(spec).all()
    picture, delta = noise(20, 20), torch.full((3, 10, 10), 0.25)
    torch.testing.assert_close(frame_picture(picture, spec, delta), fit_picture(picture, spec) + 0.25)


def test_only_a_unit_frame_alone_becomes_an_ordinary_picture(tmp_path: Path) -> None:
    picture = noise(30, 30)
    with pytest.raises(UnsupportedError, match=r"frame\.value_range: expected unit, came unbounded"):
        framed_image(save_frame(tmp_path / "unbounded", "lines"), picture)
    unit = FrameSpec(canvas=(16, 20), inner=8, value_range="unit")
    text = TextSpec(layers=2, length=3, hidden=4)
    delta = 0.5 * frame_mask(unit).expand(3, 16, 20).float()
    manifest = Manifest(name="both", version="1", frame=unit, text=text, base_model=BASE)
    tensors = {"frame.delta": delta, "text.prompts": torch.ones(2, 3, 4)}
    with pytest.raises(UnsupportedError, match="bundle: expected a frame alone, came prompts inside"):
        framed_image(save_bundle(tmp_path / "both", manifest, tensors), picture)
    plain = Manifest(name="plain", version="1", text=text, base_model=BASE)
    with pytest.raises(NoFrameError):
        framed_image(save_bundle(tmp_path / "plain", plain, {"text.prompts": torch.ones(2, 3, 4)}), picture)
