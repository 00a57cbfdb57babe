"""Gains, tables and pictures of answers made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prompts.bundle import Bundle, save_bundle
from prompts.manifest import FrameSpec, Manifest
from tests.training.report.tvp.test_plan import make_config
from training.report.answers import Answers, Corruption
from training.report.process import Cost
from training.report.tvp import document, tables
from training.report.tvp.document import write_report
from training.report.tvp.frames import Trained
from training.report.tvp.plan import FrameJob, plan_frames
from training.report.tvp.results import Results

STUDIES: dict[str, Any] = {
    "ablation": {},
    "scale": {"task": "kind", "source": "a", "shares": [0.1, 1.0], "examples": 40},
    "corruption": {"task": "kind", "source": "a", "kinds": ["fog", "jpeg"], "severities": [1, 3]},
}
EXAMPLES = 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    import torch

    manifest = Manifest(name="tvp", version="1", frame=FrameSpec(canvas=(64, 64), inner=44))
    return save_bundle(tmp_path_factory.mktemp("b") / "b", manifest, {"frame.delta": torch.zeros(3, 64, 64)})


def answers(right: int, *, wanted: tuple[str, ...] = ("food", "face")) -> Answers:
    """The first `right` of 20 answers are right."""
    asked = wanted * (EXAMPLES // len(wanted))
    other = dict(zip(wanted, wanted[::-1], strict=True))
    said = [one if place < right else other[one] for place, one in enumerate(asked)]
    return Answers(asked, tuple(said))


def make_results(bundle: Bundle, **changes: Any) -> Results:
    """Base 10 of 20 right; EVP 12 on its source and 9 elsewhere; every other method 16 and 13."""
    config = make_config(**{**STUDIES, **changes})
    results = Results(config)
    for target in config.models:
        for task in config.tasks:
            results.base[target, task] = answers(10)
    for number, job in enumerate(plan_frames(config)):
        results.trained[job] = Trained(bundle, Cost(10.0 + number, 2_000_000))
        for target in config.models:
            own = target in job.sources
            right = (12 if own else 9) if job.method == "evp" else (16 if own else 13)
            results.framed[job, target] = answers(right)
    frames = [None, *results.frames("tvp", source="a", task="kind")[:1]]
    for frame in frames:
        results.marred[frame, None] = answers(16 if frame else 10)
        for kind in ("fog", "jpeg"):
            for severity in (1, 3):
                results.marred[frame, Corruption(kind, severity)] = answers(12 if frame else 6)
    return results


def test_a_gain_is_paired_and_averaged_over_what_was_asked_for(bundle: Bundle) -> None:
    results = make_results(bundle)
    tvp, evp = results.frames("tvp"), results.frames("evp")
    assert len(tvp) == len(evp) == 3 * 2 * 2
    own = results.mean_gain(tvp, lambda job: job.sources)
    black = results.mean_gain(evp, results.black_boxes)
    over = results.mean_gain(tvp, results.black_boxes, over="evp")
    assert own is not None
    assert black is not None
    assert over is not None
    assert (own.mean, black.mean, over.mean) == (pytest.approx(0.3), pytest.approx(-0.05), pytest.approx(0.2))
    assert own.low < own.mean < own.high
    assert black.n == 12 * 2 * EXAMPLES


def test_a_frame_of_all_models_has_no_black_box(bundle: Bundle) -> None:
    results = make_results(bundle, models={"a": "models/a", "b": "models/b"})
    (job, *_) = results.frames("ensemble")
    assert results.black_boxes(job) == []
    assert results.mean_gain([job], results.black_boxes) is None


def test_a_model_whose_tower_judges_is_no_black_box_to_a_judged_frame(bundle: Bundle) -> None:
    results = make_results(bundle)
    results.seen_by_judge = frozenset({"a"})
    tvp, evp = (results.frames(method, source="b", task="kind")[0] for method in ("tvp", "evp"))
    assert (results.black_boxes(tvp), results.black_boxes(evp)) == (["c"], ["a", "c"])
    shared = results.shared_black_boxes([tvp, evp])
    assert shared(evp) == shared(tvp) == ["c"]
    assert "has the tower of a: no black box" in document._method(results)
    assert tables.transfer(results, "tvp", "kind").splitlines()[3].count("*") == 4  # a's cell and b's own


def test_sources_that_see_the_same_pictures_are_one_group(bundle: Bundle) -> None:
    """Four sources of a task are no four samples: the interval is that of one."""
    results = make_results(bundle)
    one = results.mean_gain(results.frames("tvp", source="a", task="kind"), lambda job: job.sources)
    all_ = results.mean_gain(results.frames("tvp", task="kind"), lambda job: job.sources)
    assert one is not None
    assert all_ is not None
    assert (all_.low, all_.high) == (one.low, one.high)
    assert all_.n == 3 * one.n


def test_an_ensemble_and_tvp_are_compared_on_the_same_black_boxes(bundle: Bundle) -> None:
    results = make_results(bundle)
    for job in results.frames("tvp", source="a"):
        results.framed[job, "b"] = answers(0)  # the ensemble's second source: no black box of the ensemble
    row = next(row for row in tables.ablation(results).splitlines() if row.startswith("| **tvp**:"))
    assert row.split(" | ")[2].startswith("+15.0 points")


def test_an_ablation_says_where_two_methods_are_one(bundle: Bundle) -> None:
    """Where answers name nothing no judge is asked, so that TVP without FCA is EVP."""
    results = make_results(bundle)
    lines = results.config.tasks["lines"].model_copy(update={"named": False})
    results.config.tasks["lines"] = lines
    rows = {row.split("**")[1]: row for row in tables.ablation(results).splitlines() if "**" in row}
    assert rows["tvp-without-fca"].endswith("| as evp | as evp |")
    assert rows["tvp-without-tse"].endswith("| as tvp | as tvp |")
    assert [name for name, row in rows.items() if " as " not in row] == [
        "untrained",
        "vp",
        "evp",
        "tvp",
        "ensemble",
    ]
    assert "Answers of lines name nothing that a judge could see: λ₂ = 0 there." in document._method(results)


def test_an_ablation_beside_the_grid_is_not_in_the_grid(bundle: Bundle) -> None:
    results = make_results(bundle, ablation={"methods": ["tvp"], "seeds": [9]})
    assert {job.seed for job in results.frames("tvp")} == {3, 4}
    assert "paired by source, task and seed: +20.0 points [" in tables.summary(results)


def test_agreement_is_beyond_what_blind_answers_have() -> None:
    wanted = ("food", "face") * 10
    assert Answers(wanted, wanted).kappa == 1
    assert Answers(wanted, ("Food.",) * 20).kappa == 0  # half of them right, and nothing known
    assert Answers(wanted, wanted[::-1]).kappa == -1
    assert Answers(("food",), ("food",)).kappa == 0


def test_agreement_is_shown_by_method_and_task(bundle: Bundle) -> None:
    rows = tables.agreement(make_results(bundle)).splitlines()
    assert rows[0].split(" | ")[1:3] == ["kind: on its source", "kind: on black boxes"]
    assert rows[2].startswith("| none | +0.00 (+0.00 to +0.00) |")
    assert rows[4].startswith("| tvp | +0.60 (+0.60 to +0.60) | +0.30 (+0.30 to +0.30) |")


def test_answers_are_compared_after_normalisation() -> None:
    said = Answers(("two", "a heron"), ("2.", "Heron"))
    assert said.right.tolist() == [1, 1]
    assert not said.is_yes_no
    sentences = Answers(("yes", "no", "no"), ("Yes, there is one.", "No, there is not.", "Perhaps."))
    assert sentences.right.tolist() == [1, 1, 1]  # what neither says yes nor no does not claim it is there
    assert Answers(("yes", "no"), ("no", "perhaps")).is_yes_no


def test_tables_say_what_was_found(bundle: Bundle) -> None:
    results = make_results(bundle)
    summary = tables.summary(results)
    assert "| **tvp**: a frame with both regularisers | +30.0 points [" in summary
    assert summary.count("points [") == 2 * 3 - 2 + 1  # no task is shifted
    assert "paired by source, task and seed: +20.0 points [" in summary
    rows = tables.transfer(results, "evp", "kind").splitlines()
    assert rows[0] == "|  | a | b | c | mean over black boxes |"
    assert rows[2].startswith("| trained on a | *+10 [")
    assert rows[2].count("| -5 [") == 2
    assert tables.base_accuracy(results).count("50 % [") == 3 * 2
    assert tables.base_accuracy(results).splitlines()[-1] == "| n | 20 | 20 |"
    assert "Black boxes are here those that every method has: from a c." in tables.ablation(results)
    assert "as evp" not in tables.ablation(results)
    assert "| 10 % | 4 | +30.0 points [" in tables.scale(results)
    assert "| fog | 20 | 30 % | 60 % | +30.0 points [" in tables.corruption(results)  # n: pictures alone
    assert "| tvp | 12 of 12 | " in tables.cost(results)  # not those of a share of the data
    assert "| 2 |" in tables.cost(results)


def test_yes_no_tasks_have_popes_measures(bundle: Bundle) -> None:
    results = make_results(bundle)
    assert tables.hallucination(results) == ""
    for target in results.config.models:
        results.base[target, "lines"] = answers(10, wanted=("yes", "no"))
        for job in results.frames("tvp", task="lines"):
            results.framed[job, target] = answers(20, wanted=("yes", "no"))
        for job in results.frames("evp", task="lines"):
            results.framed[job, target] = answers(0, wanted=("yes", "no"))
    lines = tables.hallucination(results).splitlines()
    assert len(lines) == 2 + 3 * 3
    assert lines[2].startswith("| lines on a | none | 20 | 50 [")
    assert lines[2].endswith("] | 50 | 50 | 50 | 50 | 0 |")
    assert lines[3].endswith("] | 0 | 0 | 0 | 50 | 0 |")
    assert lines[4].endswith("] | 100 | 100 | 100 | 50 | 0 |")


def test_the_report_is_whole(bundle: Bundle, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("## What did not work\n\nA lot.\n", encoding="utf-8")
    file = write_report(make_results(bundle, out=tmp_path / "out", notes=notes))
    text = file.read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## At a glance",
        "## Without a prompt",
        "## Beyond blind answers",
        "## From each model to each",
        "## What each part is worth",
        "## The frames",
        "## How much data",
        "## Under common corruptions",
        "## Cost",
        "## What did not work",
    ]
    named = {part.partition(")")[0] for part in text.split("](")[1:]}
    assert named == {"transfer.png", "frames.png", "scale.png", "corruption.png"}
    assert {path.name for path in file.parent.iterdir()} == {*named, "report.md"}
    assert "nan" not in text


def test_right_and_wrong_are_numbers(bundle: Bundle) -> None:
    results = make_results(bundle)
    job = FrameJob("tvp", ("a",), "kind", 3)
    assert set(np.unique(results.gain_of(job, "b"))) == {0.0, 1.0}
