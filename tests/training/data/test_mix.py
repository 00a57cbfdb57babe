"""Several entries as one: shares, order, what the parts know, and what is refused."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from prompts.errors import ConfigError
from prompts.faults import validation_faults
from tests.training.data.opening import answers, open_data
from tests.training.jobs import make_llava_json
from training.data import DataConfig, Example
from training.data.example import broken_records, known_answers, outline_of, tells_outlines
from training.data.mix import MixSource


class Named:
    """Examples that say whose they are and which."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Example:
        return Example(None, self.name, f"{self.name}{index}")


def mix(sizes: dict[str, int], **options: Any) -> MixSource:
    return MixSource({name: Named(name, size) for name, size in sizes.items()}, **options)


def said(source: MixSource) -> list[str]:
    return [source[index].answer for index in range(len(source))]


def test_by_size_each_example_is_there_once_and_they_are_shuffled() -> None:
    source = mix({"a": 30, "b": 10, "c": 2})
    found = said(source)
    assert len(found) == len(set(found)) == 42
    assert source.counts == {"a": 30, "b": 10, "c": 2}
    assert {one[0] for one in found[:12]} >= {"a", "b"}
    assert found != sorted(found)


def test_weights_decide_the_shares_and_no_part_is_left_out() -> None:
    source = mix({"a": 30, "b": 10}, weights={"a": 1, "b": 1})
    found = said(source)
    assert source.counts == {"a": 30, "b": 30}
    assert Counter(Counter(found).values()) == {1: 30, 3: 10}, "a once each, b three times"
    rounds = [one for one in found if one[0] == "b"]
    assert sorted(rounds[:10]) == sorted(rounds[10:20]) == sorted(rounds[20:])
    assert rounds[:10] != rounds[10:20]


def test_a_size_cuts_the_parts_to_their_shares() -> None:
    source = mix({"a": 100, "b": 100, "c": 100}, weights={"a": 2, "b": 1, "c": 0.5}, size=36)
    assert (source.counts, len(source)) == ({"a": 21, "b": 10, "c": 5}, 36)
    assert len(set(said(source))) == 36


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97])
def test_counts_sum_to_the_size(size: int) -> None:
    counts = mix({"a": 5, "b": 7, "c": 9}, weights={"a": 0.1, "b": 0.2, "c": 0.3}, size=size).counts
    assert sum(counts.values()) == size
    assert counts["c"] >= counts["a"]
    assert all(
        abs(counts[name] - size * weight) < 1
        for name, weight in zip("abc", (1 / 6, 1 / 3, 1 / 2), strict=True)
    )


def test_an_example_depends_on_index_and_seed_alone() -> None:
    first, again, other = (said(mix({"a": 9, "b": 9}, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    source = mix({"a": 9, "b": 9}, seed=1)
    assert [source[index].answer for index in (17, 3, 11)] == [first[17], first[3], first[11]]
    assert all(source.part_of(index) == source[index].question for index in range(18))


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        mix({"a": 1, "b": 2})[index]


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({}, {}),
        ({"a": 0}, {}),
        ({"a": 1}, {"weights": {"a": 0.0}}),
        ({"a": 1}, {"weights": {"a": -1.0}}),
        ({"a": 1}, {"weights": {"a": float("nan")}}),
        ({"a": 1, "b": 1}, {"weights": {"a": 1.0}}),
    ],
)
def test_a_mix_of_nothing_is_refused(sizes: dict[str, int], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected weights"):
        mix(sizes, **options)


def part(**data: Any) -> dict[str, Any]:
    return {"data": {"kind": "pico", "task": "count", "size": 2, **data}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "expected parts, came none"),
        ([{**part(), "weight": 0}], "greater than 0, came 0"),
        ([{**part(), "weight": 1}, part()], "expected a weight in each part or in none, came 1 of 2"),
        ([{**part(), "name": "a"}, {**part(), "name": "a"}], "parts of different names, came one twice"),
        ([{"data": {"kind": "mix", "parts": [part()]}}], "'mix'"),
        ([{**part(), "share": 1}], "share: expected no such key"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(parts: list[Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(DataConfig).validate_python({"kind": "mix", "parts": parts})
    [fault] = validation_faults(caught.value)
    assert re.search(message, fault), fault


def test_a_mix_as_a_config_has_it(picture_folder: Path) -> None:
    folder = {"kind": "image_folder", "root": str(picture_folder)}
    source = open_data(
        "mix",
        parts=[{"data": folder, "weight": 1, "name": "birds"}, {**part(task="lines"), "weight": 3}],
        size=40,
    )
    assert source.counts == {"birds": 10, "1:pico": 30}
    assert known_answers(source) is None
    assert not tells_outlines(source)
    whole = open_data("mix", parts=[{"data": folder}, {"data": {**folder, "limit": 2}}])
    assert known_answers(whole) == frozenset(answers(whole))
    assert tells_outlines(whole)
    assert [outline_of(whole, n).answer for n in range(len(whole))] == answers(whole)


def test_the_faults_of_all_parts_come_at_once(tmp_path: Path) -> None:
    parts = [
        {"data": {"kind": "image_folder", "root": str(tmp_path / "none")}},
        part(),
        part(task="nonsense"),
    ]
    with pytest.raises(ConfigError) as caught:
        open_data("mix", parts=parts)
    assert [fault.partition(": expected")[0] for fault in caught.value.faults] == [
        "parts.0: root",
        "parts.2: data.task",
    ]


def test_the_broken_records_of_the_parts_are_named_with_their_part(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    file = make_llava_json(tmp_path, [{"conversations": talk}] * 7 + ["broken"])
    talks = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    entry = {"parts": [{"data": talks, "name": "talks"}, part()], "size": 500}
    with pytest.raises(ConfigError, match="talks: record 7: expected an object"):
        open_data("mix", **entry)
    tolerant = open_data("mix", max_broken_share=0.1, **entry)
    assert broken_records(tolerant) == ("talks: record 7: expected an object, came str",)
    with pytest.raises(ConfigError, match=r"at most 9 % broken records \(max_broken_share\), came 1 of 10"):
        open_data("mix", max_broken_share=0.09, **entry)
