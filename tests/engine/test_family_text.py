"""Plain language models: Llama, Qwen2 and Qwen3 against plain transformers, and what they refuse."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prompts.errors import BundleError
from tests.engine.decoder_oracle import TextOracle
from tests.engine.families import assert_parity_alone, assert_parity_mixed, serve_family
from tests.engine.serving import Case, Served, assert_same
from tests.engine.tiny_tasks import make_task
from tests.engine.tiny_text import FAMILIES, make_tiny_text

pytestmark = pytest.mark.engine

TASKS = {
    "text": {"text": 5},
    "long-text": {"text": 40},
    "prefix": {"prefix": 9},
    "head": {"text": 3, "lm_head": True},
}
CASES = [Case(task, 0) for task in (None, *TASKS)]


@pytest.fixture(scope="module", params=FAMILIES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    model = make_tiny_text(folder / "model", request.param)
    with serve_family(folder, model, TextOracle(model), TASKS) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone_and_again_from_the_prefix_cache(served: Served, case: Case) -> None:
    assert_parity_alone(served, case)


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    assert_parity_mixed(served, CASES)


def test_a_chat_takes_a_task_too(served: Served) -> None:
    from vllm import SamplingParams

    chat = [{"role": "user", "content": "name the bird, please, and tell me why it is one."}]
    greedy = SamplingParams(temperature=0, max_tokens=8, logprobs=384, ignore_eos=True)
    outputs = served.tasks.chat([chat, chat], [served.handles["text"], None], greedy)
    text = f"USER: {chat[0]['content']} ASSISTANT:"
    for output, name in zip(outputs, ("text", None), strict=True):
        assert_same(output, served.oracle.answer(text, [], served.bundles[name] if name else None), name)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"vision": 2}, "vision: expected null, came vision prompts"),
        ({"projector": True}, "projector: expected false, came true"),
        ({"frame": True}, "frame: expected null, came a frame"),
        ({"text": 2, "frame": True}, "frame: expected null, came a frame"),
    ],
)
def test_what_belongs_to_pictures_is_refused(served: Served, tmp_path: Path, parts: dict, said: str) -> None:
    bundle = make_task(tmp_path, "pictures", served.model, seed=1, **parts)
    with pytest.raises(BundleError, match=f"{said}; the model that is served takes no pictures"):
        served.tasks.load(bundle)


def test_a_picture_is_refused_and_the_engine_goes_on(served: Served) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=r"At most 0 image\(s\) may be provided"):
        served.ask([Case("text", 1)])
    assert_same(served.ask([Case("text", 0)])[0], served.expect(Case("text", 0)))
