"""The trainer's canary: what transformers says of the bundle as saved, by both methods and by hand."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from passepartout import main
from prompts.bundle import Bundle, load_bundle
from prompts.canary import Canary
from prompts.errors import BaseModelMismatchError, ConfigError, PictureRequiredError
from prompts.fingerprint import base_model_ref
from tests.engine.oracle import Oracle
from tests.engine.tiny_families import make_tiny_onevision
from tests.engine.tiny_llava import IMAGE_SIZE, PATCHES, make_tiny_llava
from tests.engine.tiny_tasks import make_task
from tests.training.conftest import random_picture
from tests.training.jobs import QUESTION, m2pt_job, make_llava_json, tvp_job
from training.backbone import LlavaBackbone
from training.canary import TOKENS_KEPT, canary_examples, in_float32, make_canary
from training.canary_command import main as command
from training.data import Example, ImageFolderData, make_source
from training.m2pt import train_m2pt
from training.tvp import train_tvp

KINDS: dict[str, dict[str, Any]] = {
    "both": {"text": 3, "vision": 2},
    "paper": {"text": 2, "vision": 3, "mode": "paper"},
    "frame": {"frame": True},
    "everything": {"text": 2, "vision": 2, "projector": True, "frame": True},
}
RENDERED = f"<s>USER: <image>\n{QUESTION} ASSISTANT:"


def picture_of(canary: Canary, number: int = 0) -> Image.Image:
    picture = canary.inputs[number].picture
    assert picture is not None
    return Image.open(io.BytesIO(base64.b64decode(picture)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_oracle_says_of_the_picture_kept(
    tiny: LlavaBackbone, tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    bundle = make_task(tmp_path, kind, tiny_folder, seed=3, **KINDS[kind])
    canary = make_canary(tiny, bundle, [Example(random_picture(1, (90, 70)), QUESTION, "")], tiny_folder)
    (one,) = canary.inputs
    picture = picture_of(canary)
    assert picture.size == (IMAGE_SIZE, round(IMAGE_SIZE * 70 / 90))
    oracle = Oracle(tiny_folder)
    ids = oracle.processor.tokenizer(RENDERED, add_special_tokens=False)["input_ids"]
    assert list(one.prompt) == ids
    # the oracle's tokenizer puts <s> before the text by itself
    wanted = oracle.answer(RENDERED.removeprefix("<s>"), [picture], bundle, tokens=1).logprobs.topk(
        TOKENS_KEPT
    )
    assert list(one.tokens) == wanted.indices.tolist()
    assert one.logprobs == pytest.approx(wanted.values.tolist(), abs=1e-4)


def test_it_names_bundle_model_and_rows(tiny: LlavaBackbone, tiny_folder: Path, tmp_path: Path) -> None:
    bundle = make_task(tmp_path, "both", tiny_folder, seed=3, text=3, vision=2)
    examples = [Example(random_picture(1), QUESTION, ""), Example(None, QUESTION, "")]
    canary = make_canary(tiny, bundle, examples, tiny_folder)
    assert (canary.digest, canary.dtype) == (bundle.digest, "float32")
    assert canary.base_model == base_model_ref(tiny_folder)
    assert canary.image is not None
    assert canary.image.rows == PATCHES + 2
    assert [one.picture is None for one in canary.inputs] == [False, True]


def test_a_trainer_in_bfloat16_makes_it_in_float32_where_that_is_exact(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Weights that were rounded when they were loaded are another model: then it stays in bfloat16."""
    stored = tmp_path / "bfloat16"
    shutil.copytree(tiny_folder, stored)
    for file in stored.glob("*.safetensors"):
        save_file({name: one.bfloat16() for name, one in load_file(file).items()}, file, {"format": "pt"})
    bundle = make_task(tmp_path, "both", stored, seed=3, text=3, vision=2)
    examples = [Example(random_picture(1, (90, 70)), QUESTION, "")]
    rounded = LlavaBackbone.load(stored, dtype="bfloat16", device="cpu")
    before = {name: one.clone() for name, one in rounded.model.state_dict().items()}
    with in_float32(rounded, stored):
        canary = make_canary(rounded, bundle, examples, stored)
    exact = LlavaBackbone.load(stored, dtype="float32", device="cpu")
    assert canary == make_canary(exact, bundle, examples, stored)
    after = rounded.model.state_dict()
    assert all(
        after[name].dtype == one.dtype and torch.equal(after[name], one) for name, one in before.items()
    )
    with in_float32(rounded, tiny_folder):
        assert make_canary(rounded, bundle, examples, stored).dtype == "bfloat16"


def test_a_frame_needs_a_picture_and_nothing_makes_no_canary(
    tiny: LlavaBackbone, tiny_folder: Path, tmp_path: Path
) -> None:
    bundle = make_task(tmp_path, "frame", tiny_folder, seed=3, frame=True)
    with pytest.raises(PictureRequiredError):
        make_canary(tiny, bundle, [Example(None, QUESTION, "")], tiny_folder)
    with pytest.raises(ConfigError, match="examples: expected one or more, came none"):
        make_canary(tiny, bundle, [], tiny_folder)


def test_examples_are_spread_over_the_source(picture_folder: Path) -> None:
    source = make_source(ImageFolderData(kind="image_folder", root=picture_folder))
    answers = [one.answer for one in canary_examples(source, 3, with_picture=True)]
    assert answers == [source[0].answer, source[3].answer, source[6].answer]
    assert len(canary_examples(source, 99, with_picture=True)) == len(source) == 9
    spoken = [Example(None, "a", "b"), source[0]]
    assert canary_examples(spoken, 2, with_picture=True) == [source[0]]
    assert canary_examples(spoken, 2, with_picture=False) == spoken


def test_training_writes_it_for_the_bundle_as_saved(
    tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    jobs: list[Bundle] = [
        train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "m2pt")),
        train_tvp(tvp_job(tiny_folder, picture_folder, tmp_path / "tvp", canary=2)),
    ]
    for trained, count in zip(jobs, (3, 2), strict=True):
        assert trained.path is not None
        found = load_bundle(trained.path)
        assert found.canary is not None
        assert len(found.canary.inputs) == count
        pictures = [picture_of(found.canary, number) for number in range(count)]
        again = make_canary(tiny, found, [Example(one, QUESTION, "") for one in pictures], tiny_folder)
        assert again == found.canary


def test_the_validation_data_comes_first_and_none_is_written_where_none_is_wanted(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    validation = {"kind": "image_folder", "root": str(picture_folder), "question": "how many?"}
    job = m2pt_job(tiny_folder, picture_folder, tmp_path / "run", validation=validation)
    trained = train_m2pt(job)
    assert trained.canary is not None
    assert {one.question for one in trained.canary.inputs} == {"how many?"}
    assert trained.manifest.metrics
    without = train_m2pt(job.model_copy(update={"canary": 0}))  # resumed at its end: a free field
    assert without.canary is None
    assert without.digest == trained.digest


def test_a_trainer_says_where_it_puts_none_in(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "the bundle gets no canary: "
    train_tvp(tvp_job(make_tiny_onevision(tmp_path / "model"), picture_folder, tmp_path / "other", steps=1))
    assert note + "one is made through a model in LLaVA's layout alone" in capsys.readouterr().out
    train_tvp(tvp_job(tiny_folder, picture_folder, tmp_path / "llava", steps=1))
    unwanted = tvp_job(tmp_path / "model", picture_folder, tmp_path / "unwanted", steps=1, canary=0)
    train_tvp(unwanted)
    assert note not in capsys.readouterr().out

    talk = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "me"}]
    spoken = make_llava_json(tmp_path, [{"conversations": talk}])
    validation = {"kind": "llava_json", "file": str(spoken), "images": str(tmp_path)}
    seeing = {"text_length": 0, "vision_length": 2}
    train_m2pt(
        m2pt_job(tiny_folder, picture_folder, tmp_path / "m2pt", seeing, steps=1, validation=validation)
    )
    assert note + "no example that was looked at has a picture" in capsys.readouterr().out


def test_the_command_gives_a_bundle_a_canary_from_its_own_data(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "run", canary=0))
    folder = str(trained.path)
    before = (tmp_path / "run/bundle/tensors.safetensors").stat().st_mtime_ns
    assert main(["task", "canary", folder, "--model", str(tiny_folder), "--inputs", "2"]) == 0
    assert "canary.json: 2 inputs, float32, " in capsys.readouterr().out
    found = load_bundle(Path(folder))
    assert found.canary is not None
    assert {one.question for one in found.canary.inputs} == {QUESTION}
    assert (tmp_path / "run/bundle/tensors.safetensors").stat().st_mtime_ns == before
    assert sorted(path.name for path in (tmp_path / "run/bundle").iterdir()) == [
        "bundle.json",
        "canary.json",
        "tensors.safetensors",
    ]


def test_the_command_takes_pictures_or_a_text(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    make_task(tmp_path, "both", tiny_folder, seed=3, text=3, vision=2)
    folder, model = str(tmp_path / "both"), str(tiny_folder)
    files = sorted((picture_folder / "seven").iterdir())[:2]
    pictures = [word for file in files for word in ("--picture", str(file))]
    assert command([folder, "--model", model, *pictures, "--question", "what?"]) == 0
    canary = load_bundle(tmp_path / "both").canary
    assert canary is not None
    assert [one.question for one in canary.inputs] == ["what?"] * 2
    assert command([folder, "--model", model, "--question", "hello"]) == 0
    canary = load_bundle(tmp_path / "both").canary
    assert canary is not None
    assert canary.inputs[0].picture is None


def test_the_command_names_what_is_lacking(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    make_task(tmp_path, "both", tiny_folder, seed=3, text=3, vision=2)
    folder, model = str(tmp_path / "both"), str(tiny_folder)
    picture = str(next((picture_folder / "seven").iterdir()))
    with pytest.raises(ConfigError, match="--question: expected what is asked"):
        command([folder, "--model", model, "--picture", picture])
    with pytest.raises(ConfigError, match="inputs: expected 1 to 16, came 17"):
        command([folder, "--model", model, "--inputs", "17"])
    with pytest.raises(
        ConfigError, match="inputs: expected data that the bundle names, on this machine, came none"
    ):
        command([folder, "--model", model])
    other = make_tiny_llava(tmp_path / "other", seed=5)
    with pytest.raises(BaseModelMismatchError):
        command([folder, "--model", str(other)])
    assert not (tmp_path / "both" / "canary.json").exists()


def test_the_shipped_tasks_have_small_canaries_of_their_digest() -> None:
    for folder in sorted((Path(__file__).parents[2] / "examples" / "tasks").iterdir()):
        bundle = load_bundle(folder)
        assert bundle.canary is not None, folder.name
        assert (folder / "canary.json").stat().st_size < 100_000
        assert json.loads((folder / "canary.json").read_text())["base_model"]["id"] == "pico-llava"
