"""Canaries on real vLLM: the right bundle is found again, and what is wrong is not.

What is wrong is made the way it would come about: the canary is that of the bundle as it was trained, the
bundle served is another.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prompts.bundle import save_bundle
from prompts.errors import UnsupportedError
from prompts.manifest import Usage
from tests.engine.canaries import TRAINED, ask_engine, ask_in_the_other_mode, ask_permuted, canary_of
from tests.engine.conftest import Serve
from tests.engine.serving import Served
from tests.engine.tiny_llava import make_tiny_llava
from training.backbone import LlavaBackbone

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[Served]:
    """With vLLM's own limit on logprobs, as a server has it."""
    with serve(enforce_eager=True, max_logprobs=20) as served:
        yield served


@pytest.mark.parametrize("name", TRAINED)
def test_a_canary_of_each_kind_of_task_is_found_again(
    served: Served, backbone: LlavaBackbone, name: str
) -> None:
    bundle = served.bundles[name]
    report = ask_engine(served, bundle, canary_of(bundle, backbone, served.model))
    assert report.faults == ()
    assert report.difference < report.tolerance / 10  # float32 on both sides


@pytest.mark.parametrize("part", ["text.prompts", "vision.prompts", "projector.linear_1.weight"])
def test_a_permuted_prompt_is_refused(
    served: Served, backbone: LlavaBackbone, tmp_path: Path, part: str
) -> None:
    report = ask_permuted(served, "everything", part, backbone, tmp_path)
    assert "first-token logprobs within" in report.faults[0]


@pytest.mark.parametrize("name", ["both", "both-paper"])
def test_the_other_mode_is_refused(
    served: Served, backbone: LlavaBackbone, tmp_path: Path, name: str
) -> None:
    report = ask_in_the_other_mode(served, name, backbone, tmp_path)
    assert ": prompt: expected the" in report.faults[0]
    assert report.inputs[2].faults == ()  # of text alone: no mode shows


def test_another_template_is_refused(served: Served, backbone: LlavaBackbone, tmp_path: Path) -> None:
    trained = served.bundles["text"]
    manifest = trained.manifest.model_copy(update={"usage": Usage(template="name {text} today")})
    asked = save_bundle(tmp_path / "asked", manifest, trained.tensors)
    assert ask_engine(served, asked, canary_of(asked, backbone, served.model)).faults == ()
    report = ask_engine(served, asked, canary_of(trained, backbone, served.model))
    assert all(": prompt: expected the" in one for one in report.faults)
    assert len(report.faults) == len(report.inputs)


def test_another_model_that_looks_the_same_is_refused(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The fingerprint reads the first bytes of each tensor: what lies behind, the canary sees."""
    other = LlavaBackbone.load(
        make_tiny_llava(tmp_path_factory.mktemp("other"), seed=8), dtype="float32", device="cpu"
    )
    for name in ("both", "frame"):
        bundle = served.bundles[name]
        report = ask_engine(served, bundle, canary_of(bundle, other, served.model))
        assert "first-token logprobs within" in report.faults[0]


def test_a_prompt_that_the_engine_does_not_put_in_is_refused(
    served: Served, backbone: LlavaBackbone, tmp_path: Path
) -> None:
    """As if the injection were lost: only the first layer has its rows, the others zeros."""
    trained = served.bundles["text"]
    prompts = trained.tensors["text.prompts"].clone()
    prompts[1:] = 0
    shallow = save_bundle(tmp_path / "shallow", trained.manifest, {"text.prompts": prompts})
    assert ask_engine(served, shallow, canary_of(trained, backbone, served.model)).faults


def test_no_canary_is_made_of_what_the_trainer_cannot_run(served: Served, backbone: LlavaBackbone) -> None:
    with pytest.raises(UnsupportedError, match="served, but not measured yet"):
        canary_of(served.bundles["prefix"], backbone, served.model)
