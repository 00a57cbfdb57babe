"""`canary.json`: optional, read strictly, no part of the digest; shown by `task show`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from passepartout import main
from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.canary import MAX_CANARY_BYTES
from prompts.errors import BundleError
from prompts.manifest import BaseModelRef
from tests.prompts.canaries import IMAGE_TOKEN, canary_for, edit_canary, png, put_canary
from tests.prompts.sample import faults_of, save_frame, save_whole

Edit = Callable[[dict[str, Any]], object]
OTHER = BaseModelRef(architecture="LlavaForConditionalGeneration", fingerprint=f"sha256:{'1' * 64}")


@pytest.fixture
def whole(tmp_path: Path) -> Bundle:
    """A bundle with a canary, as read back."""
    bundle = save_whole(tmp_path / "whole")
    return save_bundle(tmp_path / "whole", bundle.manifest, bundle.tensors, canary_for(bundle))


def test_a_canary_comes_back_as_it_was_saved_and_leaves_the_digest_alone(
    whole: Bundle, tmp_path: Path
) -> None:
    found = load_bundle(tmp_path / "whole")
    assert found.canary == whole.canary == canary_for(whole)
    (tmp_path / "whole" / "canary.json").unlink()
    without = load_bundle(tmp_path / "whole")
    assert without.canary is None
    assert without.digest == whole.digest


def test_saving_other_tensors_drops_the_canary_of_the_old(whole: Bundle, tmp_path: Path) -> None:
    save_bundle(tmp_path / "whole", whole.manifest, {**whole.tensors})
    assert load_bundle(tmp_path / "whole").canary is None


def test_the_prompt_is_expanded_to_the_rows_of_the_picture(whole: Bundle) -> None:
    assert whole.canary is not None
    pictured, spoken = whole.canary.inputs
    assert pictured.expanded(whole.canary.image) == [1, *[IMAGE_TOKEN] * 3, 2, 3]
    assert spoken.expanded(whole.canary.image) == [1, 4, 5]


FAULTS: dict[str, tuple[Edit, str]] = {
    "unknown key": (lambda raw: raw.update(colour=1), "canary.json: colour: expected no such key, came 1"),
    "unknown inner key": (
        lambda raw: raw["inputs"][0].update(x=1),
        "canary.json: inputs.0.x: expected no such",
    ),
    "missing key": (lambda raw: raw.pop("dtype"), "canary.json: dtype: expected a value, came nothing"),
    "format 2": (lambda raw: raw.update(format=2), "canary.json: format: expected 1"),
    "dtype": (lambda raw: raw.update(dtype="int8"), "canary.json: dtype: expected 'float32'"),
    "no inputs": (
        lambda raw: raw.update(inputs=[]),
        "canary.json: inputs: expected tuple to have at least 1",
    ),
    "too many": (
        lambda raw: raw.update(inputs=raw["inputs"] * 9),
        "inputs: expected tuple to have at most 16",
    ),
    "a word": (
        lambda raw: raw["inputs"][0].update(tokens=["11", 12, 13, 14]),
        "inputs.0.tokens.0: expected a valid",
    ),
    "negative": (lambda raw: raw["inputs"][0]["prompt"].append(-1), "inputs.0.prompt.4: expected greater"),
    "NaN": (
        lambda raw: raw["inputs"][1]["logprobs"].__setitem__(0, float("nan")),
        "canary.json: expected finite",
    ),
    "positive": (
        lambda raw: raw["inputs"][0]["logprobs"].__setitem__(0, 0.5),
        "inputs.0.logprobs.0: expected less",
    ),
    "far below": (
        lambda raw: raw["inputs"][0]["logprobs"].__setitem__(-1, -1e200),
        "inputs.0.logprobs.3: expected greater",
    ),
    "lengths": (lambda raw: raw["inputs"][0]["logprobs"].pop(), "came 3 for 4 tokens"),
    "twice": (lambda raw: raw["inputs"][0].update(tokens=[11, 11, 13, 14]), "came a token twice"),
    "rising": (lambda raw: raw["inputs"][0]["logprobs"].reverse(), "came a better token after a worse one"),
    "above one": (
        lambda raw: raw["inputs"][0].update(logprobs=[-0.1] * 4),
        "came probabilities of more than 1 together",
    ),
    "no base64": (
        lambda raw: raw["inputs"][0].update(picture="?"),
        "inputs.0.picture: expected a PNG in base64",
    ),
    "a JPEG": (lambda raw: raw["inputs"][0].update(picture=png(kind="JPEG")), "came other bytes; make"),
    "cut": (lambda raw: raw["inputs"][0].update(picture=png()[:60]), "inputs.0.picture: picture: expected"),
    "huge": (
        lambda raw: raw["inputs"][0].update(picture=png((2001, 2000))),
        "expected at most 4000000 pixels",
    ),
    "no image token": (lambda raw: raw["inputs"][0].update(prompt=[1]), "input 1: expected one image token"),
    "image token": (
        lambda raw: raw["inputs"][1].update(prompt=[IMAGE_TOKEN]),
        "input 2: expected no image token",
    ),
    "digest": (lambda raw: raw.update(digest="0" * 64), "canary.json: digest: expected "),
    "no digest": (lambda raw: raw.update(digest="x"), "canary.json: digest: expected string to match"),
    "base": (
        lambda raw: raw["base_model"].update(fingerprint=OTHER.fingerprint),
        "canary.json: base_model.fingerprint: expected sha256:000",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_canary_refuses_the_bundle(whole: Bundle, tmp_path: Path, name: str) -> None:
    edit, said = FAULTS[name]
    edit_canary(tmp_path / "whole", edit)
    faults = faults_of(load_bundle, tmp_path / "whole")
    assert len(faults) == (2 if name == "NaN" else 1), faults  # the JSON and the number
    assert said in faults[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "format": 1}', "\udcff", "[" * 100_000])
def test_what_is_no_canary_is_named(whole: Bundle, tmp_path: Path, text: str) -> None:
    (tmp_path / "whole" / "canary.json").write_text(text, errors="surrogateescape")
    faults = faults_of(load_bundle, tmp_path / "whole")
    assert faults
    assert all(one.startswith("canary.json: ") for one in faults)


def test_an_oversize_canary_is_not_read(whole: Bundle, tmp_path: Path) -> None:
    os.truncate(tmp_path / "whole" / "canary.json", MAX_CANARY_BYTES + 1)
    (found,) = faults_of(load_bundle, tmp_path / "whole")
    assert "canary.json: expected at most 8388608 bytes, came 8388609 bytes (oversize)" in found


def test_a_link_out_of_the_folder_is_not_followed(whole: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "whole" / "canary.json"
    file.rename(tmp_path / "canary.json")
    file.symlink_to(tmp_path / "canary.json")
    (found,) = faults_of(load_bundle, tmp_path / "whole")
    assert "canary.json: expected a file inside the folder, came a link that leaves it" in found


def test_a_folder_in_its_place_is_a_fault(whole: Bundle, tmp_path: Path) -> None:
    (tmp_path / "whole" / "canary.json").unlink()
    (tmp_path / "whole" / "canary.json").mkdir()
    assert (
        "canary.json: expected a file, came something else" in faults_of(load_bundle, tmp_path / "whole")[0]
    )


def test_a_frames_canary_may_be_of_any_model_but_needs_pictures(whole: Bundle, tmp_path: Path) -> None:
    frame = save_frame(tmp_path / "frame", "frame")
    canary = canary_for(frame, OTHER)
    put_canary(tmp_path / "frame", canary)
    assert load_bundle(tmp_path / "frame").canary == canary
    assert whole.canary is not None
    put_canary(tmp_path / "frame", whole.canary.model_copy(update={"digest": frame.digest}))
    assert "came none in input 2" in faults_of(load_bundle, tmp_path / "frame")[0]


def test_a_canary_of_another_bundle_is_not_saved(whole: Bundle, tmp_path: Path) -> None:
    foreign = canary_for(whole).model_copy(update={"digest": "0" * 64})
    with pytest.raises(BundleError, match=r"canary\.json: digest"):
        save_bundle(tmp_path / "new", whole.manifest, whole.tensors, foreign)
    assert not (tmp_path / "new").exists()


def test_show_tells_of_it(whole: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "show", str(tmp_path / "whole")]) == 0
    assert "canary      inputs 2, dtype float32, made in tiny" in capsys.readouterr().out
    assert main(["task", "show", "--json", str(tmp_path / "whole")]) == 0
    assert json.loads(capsys.readouterr().out)["canary"]["inputs"] == 2
