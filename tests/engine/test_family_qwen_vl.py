"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL against plain transformers: prompts, frames, pictures of two sizes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prompts.errors import BundleError, PictureError
from tests.engine.families import assert_parity_alone, assert_parity_mixed, serve_family
from tests.engine.serving import Case, Served, assert_same, make_picture
from tests.engine.tiny_qwen_vl import FAMILIES, QwenVLOracle, make_tiny_qwen_vl
from tests.engine.tiny_tasks import make_task

pytestmark = pytest.mark.engine

TASKS = {
    "text": {"text": 5},
    "long-text": {"text": 40},
    "frame": {"frame": True},
    "both": {"text": 3, "frame": True},
    "head": {"text": 3, "lm_head": True},
}
PICTURES = [make_picture(1), make_picture(2, height=120, width=60)]


class QwenCase(Case):
    """The same requests, a picture written as Qwen's chat template writes it."""

    @property
    def prompt(self) -> str:
        return super().prompt.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")


CASES = [
    *(QwenCase(task, 0) for task in (None, "text", "long-text", "both")),
    *(QwenCase(task, pictures) for task in (None, *TASKS) for pictures in (1, 2)),
]


@pytest.fixture(scope="module", params=FAMILIES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    model = make_tiny_qwen_vl(folder / "model", request.param)
    with serve_family(folder, model, QwenVLOracle(model), TASKS, pictures=PICTURES) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone_and_again_from_the_prefix_cache(served: Served, case: Case) -> None:
    assert_parity_alone(served, case)


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    assert_parity_mixed(served, CASES)


def test_the_two_pictures_are_of_different_grids(served: Served) -> None:
    """Else the positions above would not be seen to follow the pictures."""
    grids, features, _ = served.oracle.see(PICTURES, None)
    assert grids[0].tolist() != grids[1].tolist()
    assert len(features[0]) != len(features[1])


def test_the_decoder_inside_is_vllms_own(served: Served) -> None:
    """Qwen2-VL asks the registry for its decoder, where our Qwen2 is registered: it must not get that one."""
    (decoder,) = served.tasks.llm.apply_model(lambda model: type(model.language_model))
    assert decoder.__module__.startswith("vllm.model_executor.models.")
    assert decoder.__name__ in ("Qwen2ForCausalLM", "Qwen3LLMForCausalLM")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"vision": 2},
            "vision: expected null, came vision prompts; vision prompts do not work with Qwen",
        ),
        ({"projector": True}, "projector: expected false, came true; Qwen-VL merges patches"),
    ],
)
def test_what_the_encoder_does_not_take_is_refused(
    served: Served, tmp_path: Path, parts: dict, said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        served.tasks.load(make_task(tmp_path, "vision", served.model, seed=1, **parts))


def test_a_video_gets_no_frame_and_is_refused(served: Served) -> None:
    from vllm import SamplingParams

    frames = np.zeros((4, 56, 56, 3), dtype=np.uint8)
    prompt = {
        "prompt": "USER: <|vision_start|><|video_pad|><|vision_end|>\nwhat is it? ASSISTANT:",
        "multi_modal_data": {"video": [(frames, {"fps": 2.0, "total_num_frames": 4})]},
    }
    with pytest.raises(PictureError, match="task both: expected pictures, came a video"):
        served.tasks.generate([prompt], [served.handles["both"]], SamplingParams(max_tokens=1))
    assert_same(served.ask([CASES[0]])[0], served.expect(CASES[0]), "the engine goes on")
