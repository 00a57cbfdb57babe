"""LLaVA's conversation JSON, whole and broken."""

import os
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import ConfigError
from tests.training.conftest import random_picture
from tests.training.data.opening import open_data
from tests.training.jobs import make_llava_json, tvp_job
from training.preflight import open_training


def json_source(file: Path, **options: Any) -> Any:
    return open_data("llava_json", file=file, images=file.parent, **options)


def talk(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(said)]


def test_conversations(tmp_path: Path) -> None:
    random_picture(5).save(tmp_path / "a.png")
    said = ("<image>\nWhat is it?", "A heron.", "Where?", "By the water. ", "And now?")
    records = [
        {"id": "1", "image": "a.png", "conversations": talk(*said)},
        {"id": "2", "conversations": talk("Hello", "Hi")},
    ]
    source = json_source(make_llava_json(tmp_path, records))
    assert [(source[index].question, source[index].answer) for index in range(len(source))] == [
        ("What is it?", "A heron."),
        ("Hello", "Hi"),
    ]
    assert source[0].picture.tobytes() == random_picture(5).tobytes()
    assert (source[1].picture, source[1].choices, source.without_picture) == (None, None, 1)
    each = json_source(make_llava_json(tmp_path, records), turns="each", limit=2)
    assert (each[1].question, each[1].answer) == ("Where?", "By the water.")
    assert each[1].picture is not None
    assert len(each) == 2


BROKEN_RECORDS = {
    "a string": "expected an object",
    "no talk": "conversations: expected a question and an answer",
    "one turn": "conversations: expected a question and an answer",
    "wrong order": "conversations: expected .*human.* in its turn",
    "no value": "conversations: expected .*gpt.* in its turn",
    "turn is a string": "conversations: expected .*human.* in its turn",
    "two images": "image: expected one file name",
    "a picture in the answer": "conversations: expected answers in words, came <image> in one",
    "no such image": r"images: expected the picture of each record, came no .*none\.png",
}


def broken_record(case: str) -> Any:
    return {
        "a string": "hello",
        "no talk": {"id": 1},
        "one turn": {"conversations": talk("a")},
        "wrong order": {"conversations": talk("a", "b")[::-1]},
        "no value": {"conversations": [*talk("a"), {"from": "gpt"}]},
        "turn is a string": {"conversations": ["a", "b"]},
        "a picture in the answer": {"conversations": talk("a", "b <image>")},
        "two images": {"image": ["a.png", "b.png"], "conversations": talk("a", "b")},
        "no such image": {"image": "none.png", "conversations": talk("a", "b")},
    }[case]


@pytest.mark.parametrize(("case", "message"), BROKEN_RECORDS.items())
def test_a_broken_record_is_refused(tmp_path: Path, case: str, message: str) -> None:
    records = [{"conversations": talk("a", "b")}, broken_record(case)]
    with pytest.raises(ConfigError, match=message):
        json_source(make_llava_json(tmp_path, records))


def test_all_broken_records_are_named_up_to_twenty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        json_source(make_llava_json(tmp_path, ["a"] * 30))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [f"record {n}" for n in range(20)]


@pytest.mark.parametrize(("text", "expected"), [("{", "JSON"), ("{}", "a list"), ("[]", "a question")])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "talks.json").write_text(text)
    with pytest.raises(ConfigError, match=f"file: expected {expected}"):
        json_source(tmp_path / "talks.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"file: expected a JSON file, came .*none\.json .{os.strerror(2)}"
    ):
        json_source(tmp_path / "none.json")


def test_tvp_refuses_text_alone_before_it_starts(tiny_folder: Path, tmp_path: Path) -> None:
    file = make_llava_json(tmp_path, [{"conversations": talk("a", "b")}])
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    config = tvp_job(tiny_folder, tmp_path, tmp_path / "out", data=data)
    with pytest.raises(ConfigError, match=r"data: expected a picture in every example .*, came 1 without"):
        open_training(config, checkpoints=[], pictures=True)
