"""Which trainings an M²PT report makes, and as what jobs."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.config import BaselineConfig, M2ptConfig
from training.report.digests import tuning_digest
from training.report.m2pt.config import METHODS, Method, ReportConfig
from training.report.m2pt.plan import TuningJob, plan_jobs, training_config

TEXT = "one two"


def make_config(**changes: Any) -> ReportConfig:
    pico = {"kind": "pico", "split": "test", "size": 10}
    told = {
        "model": "models/a",
        "train": {"kind": "pico", "task": "instructions", "size": 100},
        "unseen": {name: {**pico, "task": f"instruct_{name}"} for name in ("more", "larger")},
        "seen": {"count": {**pico, "task": "instruct_count"}},
        "rates": {method: 0.5 if method == "full" else 0.25 for method in METHODS if method != "none"},
        "seeds": [3, 4],
        "recipe": {"steps": 7, "text_length": 5, "vision_length": 2, "init_text": TEXT, "alpha_over_rank": 3},
        "out": "docs/results/x.md",
        **changes,
    }
    return ReportConfig.model_validate(told)


def test_every_method_and_seed_with_whole_seeds_first_and_then_the_lengths() -> None:
    jobs = plan_jobs(make_config(lengths={"text": [1, 9], "vision": [2]}))
    trained = [method for method in METHODS if method != "none"]
    assert [(job.method, job.seed) for job in jobs[:-2]] == [(m, s) for s in (3, 4) for m in trained]
    assert [(job.method, job.seed, job.lengths) for job in jobs[-2:]] == [
        ("m2pt", 3, (1, 2)),
        ("m2pt", 3, (9, 2)),
    ]


@pytest.mark.parametrize(
    ("method", "lengths", "projector"),
    [
        ("vpt", (0, 2), False),
        ("text", (5, 0), False),
        ("projector", (0, 0), True),
        ("both", (5, 2), False),
        ("m2pt", (5, 2), True),
    ],
)
def test_m2pt_with_parts_switched_off(method: Method, lengths: tuple[int, int], projector: bool) -> None:
    told = training_config(make_config(), TuningJob(method, 4), out=Path("x"))
    assert type(told) is M2ptConfig
    options = told.m2pt
    assert ((options.text_length, options.vision_length), options.projector) == (lengths, projector)
    assert options.init_text == (TEXT if lengths[0] else None)
    assert (told.seed, told.steps, told.lr, told.canary) == (4, 7, 0.25, 0)


@pytest.mark.parametrize(
    ("method", "learns"),
    [
        ("full", {"kind": "full"}),
        ("lora-4", {"kind": "lora", "rank": 4, "alpha_over_rank": 3}),
        ("prompt-tuning", {"kind": "prompt_tuning", "length": 5, "init_text": TEXT}),
    ],
)
def test_what_goes_through_the_same_loop(method: Method, learns: dict[str, Any]) -> None:
    config = make_config()
    told = training_config(config, TuningJob(method, 3), out=Path("x"))
    assert isinstance(told, BaselineConfig)
    assert told.learns.model_dump() == learns
    ours = training_config(config, TuningJob("m2pt", 3), out=Path("x"))
    alike = {"data", "steps", "batch", "accumulate", "warmup", "seed", "usage", "loss_over", "dtype"}
    assert told.model_dump(include=alike) == ours.model_dump(include=alike)
    assert told.lr == config.rates[method].lr


def test_the_study_of_lengths_begins_each_pair_alike() -> None:
    config = make_config(lengths={"text": [0, 9], "vision": [3]})
    none, nine = (training_config(config, job, out=Path("x")).m2pt for job in plan_jobs(config)[-2:])
    assert (none.text_length, none.init, nine.text_length, nine.init) == (0, "xavier", 9, "vocabulary")
    assert nine.init_text is None


def test_rates_are_numbers_or_one_for_each_part() -> None:
    rates = {method: 0.25 for method in METHODS if method != "none"}
    config = make_config(rates={**rates, "m2pt": {"lr": 0.1, "projector_lr": 0.2}})
    told = training_config(config, TuningJob("m2pt", 3), out=Path("x"))
    assert (told.lr, told.m2pt.vision_lr, told.m2pt.projector_lr) == (0.1, None, 0.2)


def test_every_training_has_a_digest_of_its_own(tiny_folder: Path) -> None:
    config = make_config(model=str(tiny_folder), lengths={"text": [1, 9], "vision": [2]})
    jobs = plan_jobs(config)
    digests = {tuning_digest(training_config(config, job, out=Path("x"))) for job in jobs}
    assert len(digests) == len(jobs)
    again = {tuning_digest(training_config(config, job, out=Path("y"))) for job in jobs}
    assert again == digests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": {"m2pt": 0.1}}, "rates: expected one for each method, came none for full, lora-1"),
        ({"seen": {"more": {"kind": "pico", "task": "count", "size": 1}}}, "came both for more"),
        ({"out": "docs/results"}, "expected a file of Markdown, came docs/results"),
        ({"seeds": [1, 1]}, "expected different seeds"),
        ({"methods": ["none"], "attention": {}}, "attention: expected m2pt among the methods"),
        ({"recipe": {"loss_over": "choices"}}, "recipe.loss_over: expected two usage.choices at least"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_config(**changes)
