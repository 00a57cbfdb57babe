"""What the tower gets for a framed picture: the trainer's pixels, never through 8 bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from prompts.bundle import Bundle
from prompts.frame import frame_picture
from server.engine import processing
from server.engine.handles import TaskFrame, TaskHandle, using_task
from tests.engine.oracle import Oracle
from tests.engine.serving import engine_options, make_picture
from training.backbone.pictures import of_canvas

pytestmark = pytest.mark.engine

MAX_PIXEL_ERROR = 1e-5
PROMPT = "USER: <image>\nwhat is it? ASSISTANT:"


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Iterator[Any]:
    """vLLM's front end without an engine behind it."""
    from vllm import EngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.renderers import renderer_from_config

    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("VLLM_PLUGINS", raising=False)
        load_general_plugins()
        given = engine_options()
        del given["max_logprobs"], given["disable_log_stats"]
        made = renderer_from_config(EngineArgs(str(tiny_model), **given).create_engine_config())
        yield made
        made.shutdown()


def make_handle(bundle: Bundle) -> TaskHandle:
    """A frame alone needs nothing of the workers."""
    assert bundle.manifest.frame is not None
    assert bundle.frame_delta is not None
    frame = TaskFrame(bundle.manifest.frame, bundle.frame_delta)
    return TaskHandle(name=bundle.name, digest=bundle.digest, slot=1, frame=frame)


def render(renderer: Any, picture: Image.Image, handle: TaskHandle | None) -> torch.Tensor:
    """(3, h, w) as it goes to the worker."""
    with using_task(handle):
        prompt = {"prompt": PROMPT, "multi_modal_data": {"image": picture}}
        (rendered,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    pixels: torch.Tensor = rendered["mm_kwargs"]["image"][0]["pixel_values"].data
    return pixels


def test_framed_pixels_are_the_trainers(
    renderer: Any, tiny_model: Path, bundles: dict[str, Bundle], oracle: Oracle
) -> None:
    bundle, picture = bundles["frame"], make_picture(5)
    spec, delta = bundle.manifest.frame, bundle.frame_delta
    assert spec is not None
    assert delta is not None
    framed = frame_picture(picture, spec, delta)
    assert framed.min() < -1  # far outside what 8 bits hold
    assert framed.max() > 2
    processor = AutoProcessor.from_pretrained(tiny_model).image_processor
    handle, observed = make_handle(bundle), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing, "FRAME_OBSERVERS", [lambda *seen: observed.append(seen)])
        came = render(renderer, picture, handle)
    ((seen, seconds),) = observed
    assert seen is handle
    assert 0 < seconds < 60
    assert came.dtype == torch.float32
    torch.testing.assert_close(came, oracle.pixels(picture, bundle), rtol=0, atol=MAX_PIXEL_ERROR)
    torch.testing.assert_close(
        came, of_canvas(processor, framed[None]).pixels[0], rtol=0, atol=MAX_PIXEL_ERROR
    )
    clipped = of_canvas(processor, framed.clamp(0, 1)[None]).pixels[0]
    assert (came - clipped).abs().max() > 1


def test_plain_pixels_are_the_models(renderer: Any, oracle: Oracle) -> None:
    picture = make_picture(6)
    torch.testing.assert_close(render(renderer, picture, None), oracle.pixels(picture, None), rtol=0, atol=0)


def test_a_frame_enters_the_hash_of_original_bytes(renderer: Any, bundles: dict[str, Bundle]) -> None:
    """vLLM hashes the bytes a picture came in, where it has them: the same for every task."""
    import io

    from vllm.multimodal.media import MediaWithBytes

    buffer = io.BytesIO()
    make_picture(7).save(buffer, "png")
    picture = MediaWithBytes(Image.open(buffer), buffer.getvalue())
    hashes = []
    for handle in (None, make_handle(bundles["frame"]), make_handle(bundles["everything"])):
        with using_task(handle):
            prompt = {"prompt": PROMPT, "multi_modal_data": {"image": picture}}
            hashes.append(renderer.render_cmpl([prompt])[0]["mm_hashes"]["image"][0])
    assert len(set(hashes)) == 3
