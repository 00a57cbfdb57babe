"""Scores, the verdict and the pictures of answers made by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.report.m2pt.test_plan import make_config
from training.baselines import Saved
from training.report.answers import Answers
from training.report.m2pt.attention import Look
from training.report.m2pt.document import write_report
from training.report.m2pt.plan import plan_jobs
from training.report.m2pt.results import Looked, Results
from training.report.m2pt.tuned import Tuned
from training.report.m2pt.verdict import verdict
from training.report.process import Cost

EXAMPLES = 40
SIZES = {"full": 9000, "lora-1": 90, "lora-8": 700, "m2pt": 100}
RIGHT = {"none": 10, "full": 31, "lora-1": 20, "lora-8": 24, "m2pt": 30}
METHODS = list(RIGHT)


def answers(right: int) -> Answers:
    """The first `right` of 40 answers are right."""
    said = ["yes" if place < right else "other" for place in range(EXAMPLES)]
    return Answers(("yes",) * EXAMPLES, tuple(said))


def make_results(right: Mapping[str, int], tmp_path: Path, **changes: object) -> Results:
    """On `larger` two more are right than on `more`; the second seed has two less."""
    config = make_config(methods=METHODS, out=str(tmp_path / "docs" / "x.md"), **changes)
    results = Results(config, base={task: answers(right["none"]) for task in config.tasks})
    for job in plan_jobs(config):
        saved, size = Saved(tmp_path), SIZES[job.method]
        results.tuned[job] = Tuned(saved, size, 2 * size, Cost(10.0, 5_000_000))
        for task in config.tasks:
            shift = 2 * (task == "larger") - 2 * (job.seed == 4)
            results.answers[job, task] = answers(right[job.method] + shift)
    return results


def test_scores_are_means_over_tasks_and_seeds(tmp_path: Path) -> None:
    results = make_results(RIGHT, tmp_path)
    assert results.score("m2pt", ["more"]).accuracy == pytest.approx((30 + 28) / 2 / EXAMPLES)
    both = results.score("m2pt", ["more", "larger"])
    assert both.accuracy == pytest.approx((30 + 28 + 32 + 30) / 4 / EXAMPLES)
    assert 0 < both.low < both.accuracy < both.high < 1
    assert results.score("none", ["more", "larger"]).accuracy == pytest.approx(10 / EXAMPLES)
    gain = results.gain("m2pt", "lora-1", ["more", "larger"])
    assert gain.mean == pytest.approx(10 / EXAMPLES)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "It is above every method of its size or less, and the intervals leave no doubt. "
            "On average it is within 3 points of full fine-tuning, but the interval reaches further (-2.5",
        ),
        ({}, "M²PT gains over the model as it is (+"),
        ({"lora-1": 29}, "its lead over lora-1 holds zero. On average it is within"),
        ({"lora-1": 30}, "It is not above lora-1 (the intervals decide none of this): this half"),
        ({"lora-1": 36}, "It is not above lora-1 (surely below lora-1): this half"),
        ({"lora-8": 40}, "It is above every method of its size or less, and"),
        ({"none": 30}, "That M²PT gains over the model as it is, is not shown ("),
        ({"none": 36}, "It is not above none (surely below none): this half of the aim is missed."),
        ({"none": 36}, "M²PT takes away from the model as it is (-"),
        ({"full": 32}, "It is not within 3 points of full fine-tuning (-5.0 points"),
        ({"full": 32}, "though the interval does not exclude it: this half"),
        ({"full": 36}, "It is not within 3 points of full fine-tuning (-15.0 points"),
        ({"full": 28}, "It is within 3 points of full fine-tuning, and the interval leaves no doubt (+5.0"),
    ],
)
def test_the_verdict_is_what_the_numbers_say(changed: dict[str, int], said: str, tmp_path: Path) -> None:
    assert said in verdict(make_results({**RIGHT, **changed}, tmp_path))


def test_the_report_and_its_pictures(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("## Why\n\nBecause.\n", encoding="utf-8")
    results = make_results(
        RIGHT, tmp_path, notes=str(notes), lengths={"text": [1, 2], "vision": [3]}, attention={"layers": 2}
    )
    part = np.full((2, 5), 0.05)
    look = Look(
        seen=Image.new("RGB", (32, 32), "red"),
        layers=(1, 2),
        text=part,
        vision=part,
        patches=np.full((2, 4, 4), 0.025),
        question=np.array([[0.1], [0.1]]),
        tokens=("$why\n",),
    )
    results.looks = [Looked("more", "Why [so]?", "yes", "no", look)] * 2
    results.guessing = {"more": 0.5, "larger": 0.25, "count": 0.125}
    file = write_report(results)
    text = file.read_text(encoding="utf-8")
    assert "| guessing | – | – | 50.0 % | 25.0 % | 37.5 % | 12.5 % | – | – |" in text
    assert text.count("| guessing |") == 2
    assert 'begin as the text "one two"' in text
    assert "| lora-8 | 700 | no | +15.0 points [" in text
    assert "| lora-1 | 90 | yes | +25.0 points [" in text
    pictures = {"attention-1.png", "attention-2.png", "components.png", "lengths.png", "values.png"}
    assert {path.name for path in (tmp_path / "docs" / "x").iterdir()} == pictures
    assert all(f"](x/{name})" in text for name in pictures)
    row = next(line for line in text.splitlines() if line.startswith("| **m2pt** |"))
    assert row.startswith("| **m2pt** | 100 | 200 | 72.5 % [")
    assert row.endswith(" | 10 | 5 |")
    assert "| layer 2 | 25.0 % | 25.0 % | 40.0 % | 10.0 % |" in text
    assert "![more: Why (so)? – wanted: yes – said: no](x/attention-1.png)" in text
    assert "| 2 text rows | 77.5 % [" in text  # the first seed alone
    assert text.endswith("## Why\n\nBecause.\n")
