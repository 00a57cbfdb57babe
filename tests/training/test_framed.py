"""A framed picture as a PNG: the frame of `value_range: unit` alone, within what 8 bits round."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prompts.bundle import Bundle, save_bundle
from prompts.errors import NoFrameError, PictureRequiredError, UnsupportedError
from prompts.frame import fit_picture, frame_mask, frame_picture
from prompts.manifest import FrameSpec, Manifest, TextSpec, Usage
from tests.prompts.sample import BASE
from tests.training.conftest import random_picture
from training.data import Example
from training.framed import framed_as_png

UNIT = FrameSpec(canvas=(16, 20), inner=8, value_range="unit")


def framed(folder: Path, spec: FrameSpec = UNIT, **more: Any) -> Bundle:
    """A bundle of a random frame within [0, 1], and whatever else is asked for."""
    delta = torch.rand(3, *spec.canvas, generator=torch.Generator().manual_seed(1)) * frame_mask(spec)
    tensors = {"frame.delta": delta}
    if "text" in more:
        tensors["text.prompts"] = torch.ones(2, 3, 4)
    return save_bundle(folder / "framed", Manifest(name="framed", version="1", frame=spec, **more), tensors)


def test_the_png_is_what_a_server_puts_before_the_model_but_for_rounding(tmp_path: Path) -> None:
    bundle = framed(tmp_path, usage=Usage(template="Say: {text}", choices=("a", "b")))
    example = Example(random_picture(4), "what?", "a", ("a", "b"))
    sent = framed_as_png(example, bundle)
    assert sent.picture is not None
    assert bundle.frame_delta is not None
    assert (sent.picture.mode, sent.picture.size) == ("RGB", (20, 16))
    pixels = torch.from_numpy(np.array(sent.picture)).permute(2, 0, 1) / 255
    wanted = frame_picture(random_picture(4), UNIT, bundle.frame_delta)
    assert (pixels - wanted).abs().max() <= 1 / 510 + 1e-6
    assert (pixels - fit_picture(random_picture(4), UNIT)).abs().max() > 0.5
    assert (sent.question, sent.answer, sent.choices) == ("Say: what?", "a", ("a", "b"))


@pytest.mark.parametrize(
    ("more", "came"),
    [
        ({"spec": FrameSpec(canvas=(16, 20), inner=8)}, "frame.value_range: expected unit, came unbounded"),
        (
            {"usage": Usage(system="Be brief.")},
            "bundle: expected a frame alone, came prompts inside the model",
        ),
        (
            {"text": TextSpec(layers=2, length=3, hidden=4), "base_model": BASE},
            "bundle: expected a frame alone",
        ),
    ],
)
def test_what_no_picture_can_carry_is_refused(tmp_path: Path, more: dict[str, Any], came: str) -> None:
    with pytest.raises(UnsupportedError, match=came):
        framed_as_png(Example(random_picture(4), "what?", "a"), framed(tmp_path, **more))


def test_without_a_frame_or_a_picture_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(PictureRequiredError, match="framed"):
        framed_as_png(Example(None, "what?", "a"), framed(tmp_path))
    text = TextSpec(layers=2, length=3, hidden=4)
    plain = save_bundle(
        tmp_path / "plain",
        Manifest(name="plain", version="1", base_model=BASE, text=text),
        {"text.prompts": torch.ones(2, 3, 4)},
    )
    with pytest.raises(NoFrameError):
        framed_as_png(Example(random_picture(4), "what?", "a"), plain)
