"""Which frames a report trains, and as what jobs."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.report.tvp.config import METHODS, ReportConfig
from training.report.tvp.plan import FrameJob, plan_frames, tvp_config


def make_config(**changes: Any) -> ReportConfig:
    pico = {"kind": "pico", "task": "kind", "size": 10}
    task = {"train": pico, "test": {**pico, "split": "test"}, "usage": {"choices": ["food", "face"]}}
    told = {
        "models": {"a": "models/a", "b": "models/b", "c": "models/c"},
        "tasks": {"kind": {**task, "loss_over": "choices"}, "lines": task},
        "recipe": {"clip": "models/clip", "steps": 7, "lambda_fca": 0.5, "lambda_tse": 0.25},
        "seeds": [3, 4],
        "out": "docs/results/x",
        **changes,
    }
    return ReportConfig.model_validate(told)


def test_the_grid_is_every_method_source_task_and_seed_with_whole_seeds_first() -> None:
    frames = plan_frames(make_config())
    assert len(frames) == len(set(frames)) == 2 * 3 * 2 * 2
    assert {job.seed for job in frames[:12]} == {3}
    assert {job.sources for job in frames} == {("a",), ("b",), ("c",)}
    assert {job.method for job in frames} == {"evp", "tvp"}


def test_an_ablation_is_of_the_first_source_and_seed_unless_told() -> None:
    frames = plan_frames(make_config(ablation={}))
    more = frames[24:]
    assert {job.method for job in more} == set(METHODS) - {"evp", "tvp"}
    assert {(job.sources[0], job.seed) for job in more} == {("a", 3)}
    assert len(more) == 5 * 2
    assert {job.sources for job in more if job.method == "ensemble"} == {("a", "b")}


def test_what_two_studies_share_is_trained_once() -> None:
    same = make_config(ablation={"methods": ["evp"], "sources": ["b"], "seeds": [4]})
    assert plan_frames(same) == plan_frames(make_config())


def test_a_data_scale_study_takes_shares_of_the_examples() -> None:
    config = make_config(scale={"task": "kind", "source": "c", "shares": [0.001, 0.5], "examples": 200})
    few, half = plan_frames(config)[24:]
    assert (few.title, half.share) == ("tvp · c · kind · seed 3 · 0.1 % of the data", 0.5)
    sizes = [tvp_config(config, job, out=Path("x")).data.size for job in (few, half)]
    assert sizes == [1, 100]


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_training_job(method: Any) -> None:
    job = FrameJob(method, ("a", "b") if method == "ensemble" else ("a",), "kind", 4)
    told = tvp_config(make_config(), job, out=Path("x"))
    lambdas = told.tvp.lambda_fca, told.tvp.lambda_tse
    none = dict.fromkeys(("untrained", "vp", "evp"), (0, 0))
    expected = {**none, "tvp-without-fca": (0, 0.25), "tvp-without-tse": (0.5, 0)}
    assert lambdas == expected.get(method, (0.5, 0.25))
    frame = told.tvp.frame
    assert (frame.free, frame.inner) == (("all", 224) if method == "vp" else ("border", 164))
    assert told.tvp.also == ((Path("models/b"),) if method == "ensemble" else ())
    assert (told.seed, told.model, told.loss_over) == (4, Path("models/a"), "choices")
    assert (told.steps, told.lr > 1e-6) == ((1, False) if method == "untrained" else (7, True))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": ["a", "d"]}, "sources: expected names among a, b, c, came d"),
        (
            {"scale": {"task": "colour", "source": "a"}},
            "scale.task: expected names among kind, lines, came colour",
        ),
        (
            {"corruption": {"task": "kind", "source": "d"}},
            "corruption.source: expected names among a, b, c, came d",
        ),
        ({"ablation": {"sources": ["d"]}}, "ablation.sources: expected names among a, b, c, came d"),
    ],
)
def test_a_name_that_is_none_of_the_configs_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        make_config(**changes)


def test_a_judge_is_named_where_it_is_asked() -> None:
    with pytest.raises(ValidationError, match="clip: expected a folder, came none"):
        make_config(recipe={"lambda_tse": 0.1})
    config = make_config(recipe={"lambda_tse": 0})
    told = tvp_config(config, FrameJob("tvp", ("a",), "kind", 3), out=Path("x"))
    assert (told.tvp.clip, told.tvp.lambda_tse) == (None, 0)


def test_an_ensemble_takes_two_models() -> None:
    with pytest.raises(ValidationError, match="expected two models for an ensemble, came one"):
        make_config(models={"a": "models/a"}, ablation={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruption": {"task": "kind", "source": "a", "kinds": ["fogg"]}}, "came fogg"),
        ({"corruption": {"task": "kind", "source": "a", "severities": [7]}}, "severities"),
        ({"corruption": {"task": "kind", "source": "b"}, "sources": ["a"]}, "no frame is trained on it"),
        ({"scale": {"task": "kind", "source": "a", "shares": [0.0]}}, "greater than 0"),
        ({"scale": {"task": "kind", "source": "a", "shares": [5.0]}}, "less than or equal to 1"),
        ({"seeds": [0, 0]}, "expected different seeds, came one twice"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_config(**changes)
