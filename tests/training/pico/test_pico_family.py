"""The models that frames transfer to: ordinary checkpoints in transformers and vLLM, which know the names."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from prompts.bundle import Bundle, save_bundle
from prompts.frame import frame_mask
from prompts.manifest import FrameSpec, Manifest, Usage
from tests.engine.families import start_llm_here
from training.backbone import Backbone, load_backbone
from training.decoding import first_log_probs
from training.evaluate import evaluate, picture_features, score_of
from training.pico.build import build_model
from training.pico.members import MEMBERS, Member
from training.pico.members.member import projector_state
from training.pico.tasks import make_source

pytestmark = pytest.mark.behaviour

OTHERS = [name for name in MEMBERS if name != "pico-llava"]
NAMED_RIGHT = 0.85
"""The aim; README says what each names."""
EXAMPLES = [make_source("name", "test", 4, 7)[index] for index in range(4)]
MAX_LOGPROB_ERROR = 2e-3


@pytest.fixture(scope="module", params=OTHERS)
def member(request: pytest.FixtureRequest) -> Member:
    return MEMBERS[request.param]


@pytest.fixture(scope="module")
def folder(member: Member, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(member.name, tmp_path_factory.mktemp("models") / member.name)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A random frame of the paper's size, far outside [0, 1]."""
    spec = FrameSpec()
    noise = torch.randn(3, *spec.canvas, generator=torch.Generator().manual_seed(0))
    manifest = Manifest(name="noise", version="1", frame=spec)
    tensors = {"frame.delta": noise * frame_mask(spec)}
    return save_bundle(tmp_path_factory.mktemp("tasks") / "noise", manifest, tensors)


def test_it_is_a_standard_checkpoint(member: Member, folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == member.architecture
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_the_checkpoint_sees_what_the_recipe_trained(member: Member, backbone: Backbone) -> None:
    """The eyes of the recipe, with the weights of the repository, give the checkpoint's rows."""
    eyes = member.make_eyes().eval()
    tower, taught = ({k: v.float() for k, v in load_file(file).items()} for file in weights_of(member))
    eyes.tower.load_state_dict(tower, strict=False)
    eyes.projector.load_state_dict(projector_state(taught), strict=False)
    pictures = [example.picture for example in EXAMPLES if example.picture]
    with torch.no_grad():
        inputs = backbone.process(pictures)
        pixels = inputs.pixels.reshape(-1, *inputs.pixels.shape[-3:])
        rows = eyes.projector(eyes.see(pixels).patches).flatten(0, 1)
        torch.testing.assert_close(backbone.image_features(inputs).rows, rows, atol=1e-3, rtol=1e-3)
        assert (eyes.normalise(as_bytes(pictures)) - pixels).abs().mean() < 0.01


def weights_of(member: Member) -> tuple[Path, Path]:
    return member.tower_file, member.language_file


def as_bytes(pictures: list[Image.Image]) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.stack([np.array(picture) for picture in pictures])).permute(0, 3, 1, 2)


def test_it_names_held_out_pictures_of_known_glyphs(folder: Path) -> None:
    """The measure of pico-llava: ten candidates, mean log-likelihood per token, the test split's pictures."""
    found = score_of(list(evaluate(load_backbone(folder), make_source("name", "test", 200, 0))))
    assert found.accuracy >= NAMED_RIGHT, f"named {found}"


def test_vllm_says_what_transformers_says(
    backbone: Backbone, folder: Path, frame: Bundle, tmp_path: Path
) -> None:
    """The first token's likeliest twenty, without a frame and with one, in float32 on both sides."""
    from vllm import SamplingParams

    from server.engine.offline import OfflineTasks

    told: dict[str, Any] = {"enforce_eager": True, "max_model_len": 256, "dtype": "float32"}
    with start_llm_here(folder, tmp_path / "cache", **told) as llm:
        tasks = OfflineTasks(llm, folder)
        handle = tasks.load(frame)
        ask = SamplingParams(temperature=0, max_tokens=1, logprobs=20)
        talks = [talk(example.question, example.picture) for example in EXAMPLES]
        for bundle, one in ((None, None), (frame, handle)):
            outputs = tasks.chat(talks, [one] * len(talks), ask)
            for example, output, wanted in zip(EXAMPLES, outputs, expected(backbone, bundle), strict=True):
                came = output.outputs[0].logprobs[0]
                gaps = [abs(found.logprob - wanted[token].item()) for token, found in came.items()]
                assert max(gaps) < MAX_LOGPROB_ERROR, f"{example.answer}: {max(gaps)}"


def expected(backbone: Backbone, bundle: Bundle | None) -> Tensor:
    """(examples, vocabulary) log-probabilities of the first token."""
    from training.backbone import NO_PROMPTS

    questions = [backbone.encode_example(example, Usage()).prompt for example in EXAMPLES]
    features = picture_features(backbone, EXAMPLES, bundle, NO_PROMPTS)
    return first_log_probs(backbone, questions, features=features)


def talk(question: str, picture: Image.Image | None) -> list[dict[str, Any]]:
    assert picture is not None
    data = io.BytesIO()
    picture.save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]
