"""Pictures in one folder per class, and ImageNette, whose folders are WordNet ids."""

from pathlib import Path
from typing import Any

import pytest

from prompts.errors import ConfigError, PictureError
from tests.training.conftest import random_picture
from tests.training.data.opening import answers, is_upright, open_data, save_sideways
from tests.training.jobs import QUESTION, tvp_job
from training.data.folders import IMAGENETTE_NAMES
from training.preflight import open_training

CLASSES = ("heron", "seven", "water bird")  # conftest's, the underscore read as a space


def folder_source(root: Path, **options: Any) -> Any:
    return open_data("image_folder", root=root, **options)


def test_a_folder_a_class(picture_folder: Path) -> None:
    source = folder_source(picture_folder, question=QUESTION)
    assert len(source) == 9
    assert answers(source)[:6] == [*CLASSES] * 2
    example = source[4]
    assert (example.question, example.choices) == (QUESTION, CLASSES)
    assert example.picture.tobytes() == random_picture(11, (70, 70)).tobytes()


def test_a_limit_keeps_the_classes_balanced(picture_folder: Path) -> None:
    assert sorted(answers(folder_source(picture_folder, limit=6))) == sorted([*CLASSES] * 2)


def test_other_files_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for folder in ("cat", ".cache", "empty"):
        (tmp_path / folder).mkdir()
    random_picture(0).save(tmp_path / "cat" / "a.JPG", format="jpeg")
    random_picture(0).save(tmp_path / ".cache" / "b.png")
    (tmp_path / "cat" / "notes.txt").write_text("a cat")
    (tmp_path / "cat" / "folder.png").mkdir()
    source = folder_source(tmp_path)
    assert (len(source), source[0].choices) == (1, ("cat",))


@pytest.mark.parametrize(
    "make", [lambda root: None, lambda root: root.mkdir(), lambda root: root.write_text("")]
)
def test_a_folder_without_pictures_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "root")
    with pytest.raises(ConfigError, match=r"root: expected .+, came .*root; "):
        folder_source(tmp_path / "root")


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    for name in ("grey cat", "grey_cat"):
        (tmp_path / name).mkdir()
        random_picture(0).save(tmp_path / name / "0.png")
    with pytest.raises(ConfigError, match="two called 'grey cat'"):
        folder_source(tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "7.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"cat/7\.png: picture: expected a picture"):
        folder_source(tmp_path)[0]


def test_answers_beside_the_choices_are_found_before_a_job_starts(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    job = {"loss_over": "choices", "usage": {"choices": ["heron", "seven"]}}
    with pytest.raises(
        ConfigError, match=r"data: expected answers among usage\.choices, came 1 more, .*water"
    ):
        open_training(tvp_job(tiny_folder, picture_folder, tmp_path / "out", **job), checkpoints=[])


def make_imagenette(root: Path, split: str, pictures: int = 2) -> None:
    for wordnet_id in IMAGENETTE_NAMES:
        for number in range(pictures):
            save_sideways(root / split / wordnet_id / f"{wordnet_id}_{number}.JPEG")


def test_imagenette_has_ten_classes_with_names(tmp_path: Path) -> None:
    make_imagenette(tmp_path, "train")
    make_imagenette(tmp_path, "val", pictures=1)
    save_sideways(tmp_path / "val" / "n02086240" / "0.JPEG")  # of another subset of ImageNet
    source = open_data("imagenette", root=tmp_path, split="val")
    assert sorted(answers(source)) == sorted(IMAGENETTE_NAMES.values())
    assert source[0].choices == tuple(IMAGENETTE_NAMES.values())
    assert (source[0].answer, is_upright(source[0].picture)) == ("English springer", True)
    train = open_data("imagenette", root=tmp_path, limit=10, question="Name it.")
    assert sorted(answers(train)) == sorted(IMAGENETTE_NAMES.values())
    assert train[3].question == "Name it."


def test_each_class_that_imagenette_lacks_is_named(tmp_path: Path) -> None:
    make_imagenette(tmp_path, "train")
    (tmp_path / "train" / "n03425413").rename(tmp_path / "gas pump")
    (tmp_path / "train" / "n03888257").rename(tmp_path / "parachute")
    with pytest.raises(ConfigError) as caught:
        open_data("imagenette", root=tmp_path)
    assert [fault.partition(",")[0] for fault in caught.value.faults] == [
        "root: expected pictures of class gas pump at train/n03425413/",
        "root: expected pictures of class parachute at train/n03888257/",
    ]
