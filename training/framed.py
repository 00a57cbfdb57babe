"""A framed picture as an ordinary one, for APIs that know nothing of frames."""

from dataclasses import replace

from prompts.bundle import Bundle
from prompts.errors import NoFrameError, PictureRequiredError, UnsupportedError
from prompts.faults import fault
from prompts.frame import frame_picture, to_display
from training.data import Example

__all__ = ["framed_as_png"]


def framed_as_png(example: Example, bundle: Bundle) -> Example:
    """The example with its picture framed and rounded to 8 bits: any API may be asked with it, ours or not.

    Only for a frame of `value_range: unit`, whose values fit a PNG; rounding moves each by 1/510 at most. The
    question is put into the bundle's template.

    Raises:
        NoFrameError: the bundle has no frame.
        PictureRequiredError: the example has no picture.
        UnsupportedError: the frame is unbounded, or the bundle has more than a picture can carry.
    """
    spec, delta = bundle.manifest.frame, bundle.frame_delta
    if spec is None or delta is None:
        raise NoFrameError(bundle.name)
    if spec.value_range != "unit":
        cure = "train with value_range: unit, or serve it with `passepartout serve`"
        came = f"{spec.value_range}: its values lie outside [0, 1], where 8 bits cut off what was learned"
        raise UnsupportedError(fault("frame.value_range", expected="unit", came=came, cure=cure))
    if bundle.manifest.base_model is not None or bundle.manifest.usage.system is not None:
        cure = "serve it with `passepartout serve`"
        came = "prompts inside the model, or a system message, beside it"
        raise UnsupportedError(fault("bundle", expected="a frame alone", came=came, cure=cure))
    if example.picture is None:
        raise PictureRequiredError(bundle.name)
    picture = to_display(frame_picture(example.picture, spec, delta))
    return replace(example, picture=picture, question=bundle.manifest.usage.render(example.question))
