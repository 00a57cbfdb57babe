"""CLEVR's questions, whole and broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import ConfigError
from tests.training.data.opening import answers, is_upright, open_data, save_sideways

ASKED = (
    ("Are there more cubes than red things?", "yes", 0),
    ("How many cubes are there?", "2", 0),
    ("What colour is the sphere?", "red", 0),
    ("How many spheres are there?", "10", 1),
    ("How many small things are there?", "2", 1),
    ("How many metal things are there?", "0", 2),
    ("What number of cylinders are there?", "2", 2),
)


def write(root: Path, split: str = "train", asked: Any = ASKED) -> Path:
    """Questions with all the keys they are published with."""
    questions = [
        {
            "image_index": image,
            "program": [
                {"function": "scene", "inputs": [], "value_inputs": []},
                {"function": "count", "inputs": [0], "value_inputs": ["question"]},
            ],
            "question_index": number,
            "image_filename": f"CLEVR_{split}_{image:06}.png",
            "question_family_index": 1,
            "split": split,
            "answer": answer,
            "question": question,
        }
        for number, (question, answer, image) in enumerate(asked)
    ]
    file = root / "questions" / f"CLEVR_{split}_questions.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"info": {"split": split, "version": "1.0"}, "questions": questions}))
    for one in questions:
        save_sideways(root / "images" / split / one["image_filename"])
    return file


def test_all_questions_with_choices_of_their_kind(tmp_path: Path) -> None:
    write(tmp_path, "val")
    source = open_data("clevr", root=tmp_path, split="val")
    by_question = {source[index].question: source[index] for index in range(len(source))}
    assert [(by_question[question].answer) for question, _, _ in ASKED] == [answer for _, answer, _ in ASKED]
    choices = [by_question[question].choices or () for question, _, _ in ASKED]
    assert [len(group) for group in choices] == [2, 11, 8, 11, 11, 11, 11]
    assert all(answer in group for (_, answer, _), group in zip(ASKED, choices, strict=True))
    assert is_upright(source[0].picture)


def test_counting_questions_alone(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_data("clevr", root=tmp_path, only="counting", limit=4, question="{question} One number.")
    assert answers(source) == ["0", "10", "2", "2"]
    assert source[0].question == "How many metal things are there? One number."
    assert source[0].choices == tuple(str(number) for number in range(11))


def test_each_question_has_its_own_picture(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images" / "train" / "CLEVR_train_000001.png").unlink()
    with pytest.raises(ConfigError) as caught:
        open_data("clevr", root=tmp_path)
    [fault] = caught.value.faults  # two questions about it, one fault
    assert "expected questions/CLEVR_<split>_questions.json and images/<split>/*.png, came no " in fault
    assert "CLEVR_train_000001.png" in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "root: expected JSON, came .*CLEVR_train_questions.json"),
        ("[]", "CLEVR_train_questions.json: expected "),
        ("{}", "CLEVR_train_questions.json: questions: expected a value, came nothing"),
        ('{"questions": []}', "root: expected questions with CLEVR's answers, came no question in "),
        ('{"questions": [{"question": "How many?"}]}', r"questions\.0\.answer: expected a value"),
        (
            '{"questions": [{"question": "?", "answer": 3, "image_filename": "a.png"}]}',
            r"questions\.0\.answer: expected .*string, came 3",
        ),
        (
            '{"questions": [{"question": "?", "answer": "eleven", "image_filename": "a.png"}]}',
            "root: expected questions with CLEVR's answers, came eleven in ",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path).write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_data("clevr", root=tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"root: expected questions/.*, came no readable .*_val_questions"):
        open_data("clevr", root=tmp_path, split="val")
