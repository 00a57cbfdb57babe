"""Broken pictures and records in whole jobs: skipped alike by a resumed run, named in log and bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts.bundle import Bundle, load_bundle
from prompts.errors import ConfigError, PictureError
from tests.training.conftest import random_picture
from tests.training.jobs import halt_at, m2pt_job, make_llava_json, tvp_job
from training.canary import canary_examples
from training.data import make_source
from training.evaluate import evaluate
from training.m2pt import train_m2pt
from training.tvp import train_tvp

STEPS, BATCH, PICTURES = 8, 2, 6
METHODS: dict[str, tuple[Callable[[Any], Bundle], Callable[..., Any], dict[str, Any]]] = {
    "tvp": (train_tvp, tvp_job, {"lambda_fca": 0.005, "random_crop": False}),
    "m2pt": (train_m2pt, m2pt_job, {}),
}


def make_pictures(root: Path) -> list[Path]:
    """Twelve pictures of two classes, two of them cut."""
    files = [root / name / f"{number}.png" for name in ("a", "b") for number in range(PICTURES)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        random_picture(number).save(file)
    for file in (files[2], files[9]):
        file.write_bytes(file.read_bytes()[:60])
    return files


@pytest.mark.parametrize("method", METHODS)
def test_broken_pictures_are_skipped_and_named(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    train, job, options = METHODS[method]
    broken = make_pictures(tmp_path / "pictures")
    settings = {"steps": STEPS, "batch": BATCH, "max_broken_share": 0.2}
    unbroken = train(job(tiny_folder, tmp_path / "pictures", tmp_path / "whole", options, **settings))

    found = unbroken.manifest.provenance.examples
    assert found is not None
    assert (found["broken_records"], found["broken_examples"]) == (0, 2)
    named = sorted(str(one).partition(": ")[0] for one in found["first_broken"])
    assert named == [str(broken[2]), str(broken[9])]
    assert json.loads((tmp_path / "whole" / "broken.json").read_text()) == found
    counts = [line.get("broken", 0) for line in logged(tmp_path / "whole")]
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert load_bundle(tmp_path / "whole" / "bundle").digest == unbroken.digest

    # Stopped after five steps; both pictures are mended before it goes on.
    config = job(tiny_folder, tmp_path / "pictures", tmp_path / "stopped", options, **settings)
    halt_at(5, train, config)
    saved = torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)
    assert (saved["step"], len(saved["broken"])) == (5, 2), "the test would prove less than it says"
    for file in (broken[2], broken[9]):
        random_picture(99).save(file)
    resumed = train(config)
    assert resumed.digest == unbroken.digest
    assert resumed.manifest.provenance.examples == found
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def talks(count: int, broken: int) -> list[Any]:
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    return [{"conversations": talk if n >= broken else talk[:1]} for n in range(count)]


def test_broken_records_are_left_out_up_to_the_share(tiny_folder: Path, tmp_path: Path) -> None:
    file = make_llava_json(tmp_path, talks(20, broken=2))
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    config = m2pt_job(tiny_folder, tmp_path, tmp_path / "out", data=data, max_broken_share=0.1)
    found = train_m2pt(config).manifest.provenance.examples
    assert found is not None
    assert (found["broken_records"], found["broken_examples"]) == (2, 0)
    assert [str(one).partition(":")[0] for one in found["first_broken"]] == ["record 0", "record 1"]
    stricter = config.model_copy(update={"max_broken_share": 0.09, "out": tmp_path / "stricter"})
    with pytest.raises(ConfigError) as caught:
        train_m2pt(stricter)
    assert [fault.partition(": expected")[0] for fault in caught.value.faults] == [
        "data: data",
        "data: record 0: conversations",
        "data: record 1: conversations",
    ]
    assert not (tmp_path / "stricter").exists()


def test_whole_data_says_nothing_of_it(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    bundle = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "out", steps=1))
    assert bundle.manifest.provenance.examples is None
    assert (
        "examples" not in json.loads((tmp_path / "out" / "bundle" / "bundle.json").read_text())["provenance"]
    )
    assert not (tmp_path / "out" / "broken.json").exists()


def test_a_mix_says_how_much_of_each_part_there_was(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    file = make_llava_json(tmp_path, talks(4, broken=0))
    parts = [
        {"data": {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}, "name": "talks"},
        {"data": {"kind": "image_folder", "root": str(picture_folder)}, "name": "birds"},
    ]
    config = m2pt_job(tiny_folder, tmp_path, tmp_path / "out", data={"kind": "mix", "parts": parts}, steps=1)
    assert train_m2pt(config).manifest.provenance.examples == {"parts": {"talks": 4, "birds": 9}}


def test_validation_is_whole_or_refused(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    """A measure's n must not change by itself."""
    file = make_llava_json(tmp_path, talks(20, broken=1))
    validation = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    config = m2pt_job(
        tiny_folder, picture_folder, tmp_path / "out", validation=validation, max_broken_share=0.5
    )
    with pytest.raises(ConfigError, match="validation: record 0: conversations: expected"):
        train_m2pt(config)


def test_a_canary_passes_over_what_is_broken(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures")
    source = make_source(m2pt_job(tmp_path, tmp_path / "pictures", tmp_path).data)
    assert len(canary_examples(source, len(source), with_picture=True)) == len(source) - 2


def test_an_evaluation_refuses_a_broken_picture(tiny: Any, tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures")
    source = make_source(m2pt_job(tmp_path, tmp_path / "pictures", tmp_path).data)
    with pytest.raises(PictureError, match="a broken one"):
        list(evaluate(tiny, source))
