"""What a config may say of data: each kind has an opener, and what does not fit is refused."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from prompts.faults import validation_faults
from tests.training.data.opening import answers, open_data
from training import data
from training.data import AnyData, DataConfig, config
from training.data.example import count_without_picture, known_answers
from training.data.items import Item, spread
from training.data.make import OPENERS

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


def test_every_kind_has_an_opener_and_a_docstring() -> None:
    entries = get_args(AnyData)
    assert sorted(OPENERS) == sorted(get_args(entry.model_fields["kind"].annotation)[0] for entry in entries)
    assert all(entry.__doc__ for entry in entries)


def test_what_a_config_may_say_is_offered_by_the_package() -> None:
    assert [name for name in config.__all__ if name not in data.__all__] == []
    assert all(getattr(data, name) is getattr(config, name) for name in config.__all__)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "mnist"}, "expected"),
        ({"kind": "cifar10", "root": "a", "split": "val"}, "split: expected 'train' or 'test', came 'val'"),
        (
            {"kind": "cifar10", "root": "a", "limit": 0},
            "limit: expected .*greater than or equal to 1, came 0",
        ),
        ({"kind": "cifar10", "root": "a", "labels": "fine"}, "labels: expected no such key"),
        ({"kind": "svhn"}, "root: expected a value, came nothing"),
        (
            {"kind": "pope", "root": "a", "images": "b", "question": "Is it?"},
            r"question: expected \{question\} in the question, came 'Is it\?'; write it in",
        ),
        (
            {"kind": "hateful_memes", "root": "a", "question": "Is {question} hateful?"},
            r"question: expected \{text\} in the question",
        ),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(DataConfig).validate_python(entry)
    [fault] = validation_faults(caught.value)
    assert re.search(message, fault), fault


def test_items_are_spread_over_their_answers() -> None:
    items = [Item(number, "?", answer) for number, answer in enumerate("aaaabbc")]
    assert [(item.place, item.answer) for item in spread(items, 6)] == [
        (0, "a"),
        (4, "b"),
        (6, "c"),
        (1, "a"),
        (5, "b"),
        (2, "a"),
    ]
    assert sorted(item.place for item in spread(items, None)) == [*range(7)]


def test_a_source_that_draws_its_pictures_says_nothing_of_its_answers(picture_folder: Path) -> None:
    drawn = open_data("pico", task="count", size=3)
    assert (len(drawn), known_answers(drawn), count_without_picture(drawn)) == (3, None, 0)
    read = open_data("image_folder", root=picture_folder, limit=2)
    assert (known_answers(read), count_without_picture(read)) == (frozenset(answers(read)), 0)


def documented() -> dict[str, dict[str, Any]]:
    """kind -> the example of its row in docs/datasets.md."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(\{.*\})` \|$", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    return {kind: yaml.safe_load(example) for kind, example in rows}


def test_each_kind_is_documented_with_an_example_that_fits() -> None:
    examples = documented()
    assert sorted(examples) == sorted(OPENERS)
    entries = {kind: TypeAdapter(DataConfig).validate_python(example) for kind, example in examples.items()}
    assert {kind: entry.kind for kind, entry in entries.items()} == {kind: kind for kind in examples}
