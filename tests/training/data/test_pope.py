"""POPE's three samplings, whole and broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import ConfigError
from tests.training.data.opening import answers, is_upright, open_data, save_sideways

THINGS = (("snowboard", "yes"), ("car", "no"), ("person", "yes"), ("cup", "yes"), ("dog", "no"))


def write(root: Path, sampling: str = "random") -> Path:
    """Lines as published; two pictures."""
    lines = []
    for number, (thing, label) in enumerate(THINGS):
        image = f"COCO_val2014_00000000000{number % 2}.jpg"
        save_sideways(root / "val2014" / image)
        text = f"Is there a {thing} in the image?"
        lines.append(json.dumps({"question_id": number + 1, "image": image, "text": text, "label": label}))
    file = root / f"coco_pope_{sampling}.json"
    file.write_text("\n".join(lines) + "\n")
    return file


def pope(root: Path, **options: Any) -> Any:
    return open_data("pope", root=root, images=root / "val2014", **options)


@pytest.mark.parametrize("sampling", ["random", "popular", "adversarial"])
def test_a_sampling(tmp_path: Path, sampling: str) -> None:
    write(tmp_path, sampling)
    source = pope(tmp_path, split=sampling)
    assert sorted(answers(source)) == ["no", "no", "yes", "yes", "yes"]
    assert (source[0].question, source[0].answer) == ("Is there a car in the image?", "no")
    assert source[1].question == "Is there a snowboard in the image?"
    assert (source[0].choices, is_upright(source[0].picture)) == (("yes", "no"), True)


def test_a_limit_keeps_yes_and_no_balanced(tmp_path: Path) -> None:
    write(tmp_path)
    source = pope(tmp_path, limit=4, question="{question} Answer yes or no.")
    assert answers(source) == ["no", "yes", "no", "yes"]
    assert source[1].question == "Is there a snowboard in the image? Answer yes or no."


def test_all_that_is_broken_is_named(tmp_path: Path) -> None:
    file = write(tmp_path)
    lines = file.read_text().splitlines()
    lines[1] = "{"
    lines[2] = lines[2].replace('"yes"', '"maybe"')
    lines[3] = ""
    file.write_text("\n".join(lines))
    (tmp_path / "val2014" / "COCO_val2014_000000000000.jpg").unlink()
    with pytest.raises(ConfigError) as caught:
        pope(tmp_path)
    faults = caught.value.faults
    assert [fault.partition(", came")[0] for fault in faults] == [
        "coco_pope_random.json line 2: expected valid JSON",
        "coco_pope_random.json line 3: label: expected 'yes' or 'no'",
        "images: expected the picture of each line",
    ]


@pytest.mark.parametrize(("text", "came"), [(None, "no readable"), ("", "an empty")])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, text: str | None, came: str) -> None:
    if text is not None:
        (tmp_path / "coco_pope_popular.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"root: expected coco_pope_.*, came {came} .*coco_pope_popular"):
        pope(tmp_path, split="popular")
