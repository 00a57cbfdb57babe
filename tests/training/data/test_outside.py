"""Names of pictures in data files: they stay in the folder that the config names."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prompts.errors import ConfigError
from tests.training.data.opening import is_upright, open_data, save_sideways
from training.data.files import inside


def pope(root: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    lines = [{"image": f"{name}.jpg", "text": "Is it?", "label": "yes"} for name in names]
    (root / "coco_pope_random.json").write_text("\n".join(map(json.dumps, lines)))
    return root / "val2014", {"kind": "pope", "root": root, "images": root / "val2014"}


def hateful_memes(root: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    lines = [{"img": f"{name}.jpg", "text": "rain", "label": 0} for name in names]
    (root / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root, {"kind": "hateful_memes", "root": root}


def clevr(root: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    asked = [{"image_filename": f"{name}.jpg", "question": "Is it?", "answer": "yes"} for name in names]
    (root / "questions").mkdir()
    (root / "questions" / "CLEVR_train_questions.json").write_text(json.dumps({"questions": asked}))
    return root / "images" / "train", {"kind": "clevr", "root": root}


def llava_json(root: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    said = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "yes"}]
    records = [{"image": f"{name}.jpg", "conversations": said} for name in names]
    (root / "talks.json").write_text(json.dumps(records))
    images = root / "photos"
    return images, {"kind": "llava_json", "file": root / "talks.json", "images": images}


def oxford_pets(root: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    (root / "annotations").mkdir()
    lines = [f"{name} 1 1 1" for name in names]
    (root / "annotations" / "trainval.txt").write_text("\n".join(lines))
    return root / "images", {"kind": "oxford_pets", "root": root}


WRITERS: dict[str, Callable[[Path, Sequence[str]], tuple[Path, dict[str, Any]]]] = {
    "clevr": clevr,
    "hateful_memes": hateful_memes,
    "llava_json": llava_json,
    "oxford_pets": oxford_pets,
    "pope": pope,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    """All of them at once, beside one that is missing; what they lead to is there and is a picture."""
    root = tmp_path / "set"
    root.mkdir()
    outside = tmp_path / "private_1.jpg"
    up = "../" * 12 + str(tmp_path.relative_to("/")) + "/private_1"
    names = ["fine_1", str(outside.with_suffix("")), up, f"a_b/../{up}", "gone_1"]
    folder, entry = WRITERS[kind](root, names)
    save_sideways(outside)
    save_sideways(folder / "fine_1.jpg")
    (folder / "a_b").mkdir()
    assert all((folder / f"{name}.jpg").is_file() for name in names[:4]), "the test would prove nothing"
    with pytest.raises(ConfigError) as caught:
        open_data(**entry)
    field = "images" if "images" in entry else "root"
    led_out = f"{field}: expected pictures in {folder}, came "
    assert [fault.startswith(led_out) for fault in caught.value.faults] == [True, True, True, False]
    assert f"came no {folder}/gone_1.jpg" in caught.value.faults[3]


@pytest.mark.parametrize("kind", WRITERS)
def test_what_lies_in_the_folder_may_be_elsewhere(tmp_path: Path, kind: str) -> None:
    """Links in it, of a picture or a folder, are its owner's."""
    root = tmp_path / "set"
    root.mkdir()
    folder, entry = WRITERS[kind](root, ["own_1", "sub_a/linked_1", "sub_b/far_1", "sub_a/../own_1"])
    elsewhere = tmp_path / "elsewhere"
    for place in (folder / "own_1.jpg", elsewhere / "near_1.jpg", elsewhere / "far" / "far_1.jpg"):
        save_sideways(place)
    (folder / "sub_a").mkdir()
    (folder / "sub_a" / "linked_1.jpg").symlink_to(elsewhere / "near_1.jpg")
    (folder / "sub_b").symlink_to(elsewhere / "far")
    source = open_data(**entry)
    assert len(source) == 4
    assert all(is_upright(source[index].picture) for index in range(4))


def test_a_name_does_not_climb_out_of_where_a_link_leads(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "linked"
    elsewhere.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "elsewhere" / "private.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    assert (folder / "link/../private.png").is_file(), "the test would prove nothing"
    found = inside(folder, "link/../private.png")
    assert found == folder / "private.png"
    assert not found.exists()


@pytest.mark.parametrize("name", ["/a.png", "//a.png", "..", "../a.png", "a/../../b.png", "./../a.png"])
def test_these_lead_out(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) is None


@pytest.mark.parametrize(
    ("name", "plain"), [("a.png", "a.png"), ("..a/b..png", "..a/b..png"), ("a/./b/../c.png", "a/c.png")]
)
def test_these_stay(tmp_path: Path, name: str, plain: str) -> None:
    assert inside(tmp_path, name) == tmp_path / plain
