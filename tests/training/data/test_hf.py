"""Hugging Face data sets as they lie on disk, whole and streamed: no network, no decoding but ours."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import TypeAdapter, ValidationError

from prompts.errors import ConfigError, PictureError, RecordError
from prompts.faults import validation_faults
from tests.training.conftest import random_picture
from tests.training.data.opening import answers, open_data, save_sideways
from tests.training.jobs import halt_at, m2pt_job
from training.data import DataConfig, Example, ExampleStream, HfData
from training.data import open_data as open_entry
from training.data.example import broken_records, known_answers
from training.m2pt import train_m2pt

ROWS = 6
KINDS = ("disk", "parquet", "arrow", "jsonl")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a data set on disk asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    datasets.disable_progress_bars()


def png(seed: int) -> bytes:
    file = io.BytesIO()
    random_picture(seed).save(file, "PNG")
    return file.getvalue()


def rows_of(count: int = ROWS) -> list[dict[str, Any]]:
    return [
        {"id": n, "image": {"bytes": png(n), "path": None}, "question": f"what {n}?", "answer": f"it {n}"}
        for n in range(count)
    ]


def data_set(rows: list[dict[str, Any]], **columns: Any) -> datasets.Dataset:
    features = {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),
        **columns,
    }
    named = {name: [row.get(name) for row in rows] for name in features}
    return datasets.Dataset.from_dict(named, features=datasets.Features(features))


def write(folder: Path, kind: str, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The rows as a kind of file; the entry that reads them."""
    rows, path = rows_of() if rows is None else rows, folder / f"a.{kind}"
    if kind == "disk":
        data_set(rows).save_to_disk(path)
    elif kind == "parquet":
        data_set(rows).to_parquet(path)
    elif kind == "arrow":
        data_set(rows).save_to_disk(folder / "saved")
        (folder / "saved" / "data-00000-of-00001.arrow").rename(path)
    else:
        lines = []
        for row in rows:
            name = f"{row['id']}.png"
            (folder / name).write_bytes(row["image"]["bytes"])
            lines.append(json.dumps({**row, "image": name}))
        path.write_text("\n".join(lines))
    names = {"images": folder} if kind == "jsonl" else {}
    return {"path": path, "cache": folder / "cache", **names}


def stream_of(**fields: Any) -> ExampleStream:
    opened = open_entry(TypeAdapter(DataConfig).validate_python({"kind": "hf", "streaming": True, **fields}))
    assert isinstance(opened, ExampleStream)
    return opened


def read(stream: ExampleStream, *, seed: int = 0, epoch: int = 0) -> Iterator[Example]:
    return (opened() for opened in stream.rows(seed=seed, epoch=epoch))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_whole_and_streamed(tmp_path: Path, kind: str) -> None:
    entry = write(tmp_path, kind)
    source = open_data("hf", **entry)
    assert answers(source) == [f"it {n}" for n in range(ROWS)]
    assert (source[2].question, source[2].choices) == ("what 2?", None)
    assert source[2].picture.tobytes() == random_picture(2).tobytes()
    streamed = {example.answer: example for example in read(stream_of(**entry))}
    assert sorted(streamed) == answers(source)
    assert streamed["it 2"].question == "what 2?"
    assert streamed["it 2"].picture.tobytes() == random_picture(2).tobytes()


@pytest.mark.parametrize("kind", ["disk", "parquet"])
def test_a_streams_order_is_of_seed_and_epoch_alone(tmp_path: Path, kind: str) -> None:
    entry = {**write(tmp_path, kind, rows_of(40)), "shuffle_buffer": 8}

    def order(seed: int, epoch: int) -> list[str]:
        return [example.answer for example in read(stream_of(**entry), seed=seed, epoch=epoch)]

    first = order(1, 0)
    assert first == order(1, 0)
    assert len({tuple(one) for one in (first, order(2, 0), order(1, 1), sorted(first))}) == 4
    assert sorted(order(1, 1)) == sorted(first)
    stream = stream_of(**entry)
    half = read(stream, seed=1)
    begun = [next(half).answer for _ in range(5)]
    assert [example.answer for example in read(stream, seed=1, epoch=1)] == order(1, 1)
    assert begun + [example.answer for example in half] == first, "two readers of a stream disturb each other"


def test_files_are_streamed_one_after_the_other_in_random_order(tmp_path: Path) -> None:
    rows = rows_of(12)
    for number in range(3):
        data_set(rows[4 * number : 4 * number + 4]).to_parquet(tmp_path / f"{number}.parquet")
    stream = stream_of(path=tmp_path, shuffle_buffer=1)
    orders = set()
    for seed in range(6):
        files = [int(example.answer.split()[1]) // 4 for example in read(stream, seed=seed)]
        assert [len(set(files[n : n + 4])) for n in (0, 4, 8)] == [1, 1, 1]
        orders.add(tuple(files))
    assert len(orders) > 1


def test_classes_are_called_by_their_names_and_are_the_choices(tmp_path: Path) -> None:
    rows = [{**row, "answer": n % 2} for n, row in enumerate(rows_of(4))]
    data_set(rows, answer=datasets.ClassLabel(names=["heron", "owl"])).to_parquet(tmp_path / "a.parquet")
    fields = {"path": tmp_path / "a.parquet", "cache": tmp_path / "cache", "question": "What bird?"}
    source = open_data("hf", **fields)
    assert answers(source) == ["heron", "owl"] * 2
    assert (source[1].question, source[1].choices) == ("What bird?", ("heron", "owl"))
    assert known_answers(source) == {"heron", "owl"}
    assert {example.choices for example in read(stream_of(**fields))} == {("heron", "owl")}


def test_conversations_and_text_alone(tmp_path: Path) -> None:
    talk = [
        {"from": ("human", "gpt")[n % 2], "value": said} for n, said in enumerate(["<image>a", "b", "c", "d"])
    ]
    rows = [{"image": "0.png", "conversations": talk}, {"image": None, "conversations": talk[:2]}]
    (tmp_path / "talks.json").write_text(json.dumps(rows))
    save_sideways(tmp_path / "photos" / "0.png")
    fields = {
        "path": tmp_path / "talks.json",
        "images": tmp_path / "photos",
        "cache": tmp_path / "cache",
        "conversations_column": "conversations",
        "turns": "each",
    }
    source = open_data("hf", **fields)
    assert [(e.question, e.answer, e.picture is None) for e in (source[n] for n in range(3))] == [
        ("a", "b", False),
        ("c", "d", False),
        ("a", "b", True),
    ]
    assert source.without_picture == 1
    assert len(list(read(stream_of(**fields)))) == 3


def test_numbers_are_answers_and_a_fixed_question_needs_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"answer": n}) for n in (3, 14)))
    fields = {"path": tmp_path, "cache": tmp_path / "cache", "question": "How many?", "image_column": None}
    assert answers(open_data("hf", **fields)) == ["3", "14"]


def test_splits_of_folders_and_of_files(tmp_path: Path) -> None:
    whole = {"train": data_set(rows_of(4)), "test": data_set(rows_of(2))}
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    for name, one in whole.items():
        one.to_parquet(tmp_path / "files" / f"{name}-00000-of-00001.parquet")
    for folder in ("saved", "files"):
        entry = {"path": tmp_path / folder, "cache": tmp_path / "cache"}
        assert len(open_data("hf", split="test", **entry)) == 2
        assert len(list(read(stream_of(split="train", **entry)))) == 4
        with pytest.raises(
            ConfigError, match=r"split: expected one of|path: expected a folder of save_to_disk"
        ):
            open_data("hf", split="dev", **entry)
    with pytest.raises(ConfigError, match=r"split: expected one of train, test, came None"):
        open_data("hf", path=tmp_path / "saved")


def test_a_limit(tmp_path: Path) -> None:
    entry = write(tmp_path, "parquet")
    assert answers(open_data("hf", limit=2, **entry)) == ["it 0", "it 1"]
    assert {one.answer for one in read(stream_of(limit=2, **entry))} == {"it 0", "it 1"}


def broken_rows() -> list[dict[str, Any]]:
    rows = rows_of()
    rows[1]["answer"] = None
    rows[3]["image"]["bytes"] = png(3)[:50]
    return rows


def test_broken_rows_are_named(tmp_path: Path) -> None:
    entry = write(tmp_path, "parquet", broken_rows())
    with pytest.raises(ConfigError, match="row 1: answer: expected text, came None"):
        open_data("hf", **entry)
    source = open_data("hf", max_broken_share=0.2, **entry)
    assert broken_records(source) == ("row 1: answer: expected text, came None",)
    assert answers_of_whole(source) == ["it 0", "it 2", "it 4", "it 5"]
    with pytest.raises(PictureError, match=r"row 3: picture: expected a picture .*, came a broken one"):
        source[2]


def answers_of_whole(source: Any) -> list[str]:
    return [source[n].answer for n in range(len(source)) if n != 2]


def test_broken_rows_of_a_stream_raise_when_they_are_opened(tmp_path: Path) -> None:
    raised = {}
    for opened in stream_of(**write(tmp_path, "parquet", broken_rows())).rows(seed=0, epoch=0):
        try:
            opened()
        except (PictureError, RecordError) as error:
            raised[type(error)] = str(error)
    assert raised[RecordError] == "row 1: answer: expected text, came None"
    assert raised[PictureError].startswith("row 3: picture: expected a picture")
    assert len(raised) == 2


@pytest.mark.parametrize("name", ["/etc/passwd", "../private.png", "none.png"])
def test_a_name_outside_or_of_nothing_is_broken(tmp_path: Path, name: str) -> None:
    save_sideways(tmp_path / "private.png")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": name, "question": "a", "answer": "b"}))
    fields = {"path": tmp_path / "a.jsonl", "cache": tmp_path / "cache", "images": tmp_path / "photos"}
    source = open_data("hf", **fields)
    with pytest.raises(
        (PictureError, RecordError), match=r"none\.png|expected the picture's bytes, or its name"
    ):
        source[0]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json"])
def test_bytes_that_are_none_of_these_are_refused(tmp_path: Path, name: str, streaming: bool) -> None:
    (tmp_path / name).write_bytes(b"no such thing")
    with pytest.raises(ConfigError, match=rf"path: expected a folder of save_to_disk.*{name}"):
        open_entry(HfData(kind="hf", path=tmp_path / name, cache=tmp_path / "cache", streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_columns_and_files_are_named(tmp_path: Path, streaming: bool) -> None:
    entry = {**write(tmp_path, "parquet"), "kind": "hf", "streaming": streaming}
    missing = {"question_column": "ask", "answer_column": "say", "image_column": "photo"}
    with pytest.raises(ConfigError) as caught:
        open_entry(HfData.model_validate({**entry, **missing}))
    assert [fault.partition(";")[0] for fault in caught.value.faults] == [
        f"data: expected a column {name}, came none" for name in ("ask", "say", "photo")
    ]
    for path in (tmp_path / "none", tmp_path / "cache"):
        with pytest.raises(ConfigError, match=r"path: expected a folder of save_to_disk, .* came none"):
            open_entry(HfData(kind="hf", path=path, streaming=streaming))


def test_a_stream_is_for_training_alone(tmp_path: Path) -> None:
    entry = write(tmp_path, "parquet")
    with pytest.raises(
        ConfigError, match="streaming: expected false where the number of examples must be known"
    ):
        open_data("hf", streaming=True, **entry)
    part = {"data": {"kind": "hf", "path": "a", "streaming": True}}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(DataConfig).validate_python({"kind": "mix", "parts": [part]})
    assert "parts whose sizes are known" in validation_faults(caught.value)[0]
    with pytest.raises(ValidationError) as caught:
        HfData(kind="hf", path=tmp_path, conversations_column="talk", answer_column="said")
    assert "came answer_column too" in validation_faults(caught.value)[0]


def test_a_resumed_job_on_a_stream_ends_as_the_unbroken_one(tiny_folder: Path, tmp_path: Path) -> None:
    entry = {name: str(value) for name, value in write(tmp_path, "parquet", broken_rows()).items()}
    data = {"kind": "hf", "streaming": True, "shuffle_buffer": 3, **entry}
    settings = {"data": data, "max_broken_share": 0.5, "batch": 2}
    whole = train_m2pt(m2pt_job(tiny_folder, tmp_path, tmp_path / "whole", steps=6, **settings))
    found = whole.manifest.provenance.examples
    assert found is not None
    assert found["broken_examples"] >= 2
    stopped = m2pt_job(tiny_folder, tmp_path, tmp_path / "stopped", steps=6, **settings)
    halt_at(3, train_m2pt, stopped)
    resumed = train_m2pt(stopped)
    assert resumed.digest == whole.digest
    assert resumed.manifest.provenance.examples == found
