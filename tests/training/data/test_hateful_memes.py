"""Hateful Memes, whole and broken."""

import json
from pathlib import Path

import pytest

from prompts.errors import ConfigError
from tests.training.data.opening import answers, is_upright, open_data, save_sideways

MEMES = (("look how many", 0), ('they say "{text}"', 1), ("a day at the lake", 0), ("rain again", 0))


def write(root: Path, split: str = "train") -> Path:
    """Lines as published."""
    lines = []
    for number, (text, label) in enumerate(MEMES):
        image = f"img/{number:05}.png"
        save_sideways(root / image)
        lines.append(json.dumps({"id": number, "img": image, "label": label, "text": text}))
    file = root / f"{split}.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_a_split_with_the_text_in_the_question(tmp_path: Path) -> None:
    write(tmp_path, "dev_seen")
    source = open_data("hateful_memes", root=tmp_path, split="dev_seen")
    assert answers(source) == ["no", "yes", "no", "no"]
    assert [source[index].question for index in range(2)] == [
        'The text in the picture is: "look how many" Is this meme hateful?',
        'The text in the picture is: "they say "{text}"" Is this meme hateful?',
    ]
    assert (source[0].choices, is_upright(source[0].picture)) == (("yes", "no"), True)


def test_a_limit_keeps_yes_and_no_balanced(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_data("hateful_memes", root=tmp_path, limit=2, question="{text}: is that hateful?")
    assert answers(source) == ["no", "yes"]
    assert source[0].question == "look how many: is that hateful?"


def test_all_that_is_broken_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "test_seen")
    lines = file.read_text().splitlines()
    lines[0] = json.dumps({"id": 1, "img": "img/00000.png", "text": "the test set as first published"})
    lines[2] = lines[2].replace('"label": 0', '"label": 2')
    file.write_text("\n".join(lines))
    (tmp_path / "img" / "00003.png").unlink()
    with pytest.raises(ConfigError) as caught:
        open_data("hateful_memes", root=tmp_path, split="test_seen")
    assert [fault.partition(", came")[0] for fault in caught.value.faults] == [
        "test_seen.jsonl line 1: label: expected a value",
        "test_seen.jsonl line 3: label: expected 0 or 1",
        "root: expected {train,dev_seen,…}.jsonl, an {id, img, label, text} per line, and img/",
    ]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"root: expected .*jsonl.*, came no readable .*dev_unseen\.jsonl"):
        open_data("hateful_memes", root=tmp_path, split="dev_unseen")
