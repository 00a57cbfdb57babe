"""The harness's arithmetic: rounds alternate, ratios are taken round by round, aims are held against them."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import QUESTIONS, README, find_question, main, put_table
from benchmarks.harness import Ratio, Rounds, alternate, ratio_of
from benchmarks.machine import describe
from benchmarks.outcome import Figure, Outcome, read_outcome, save_outcome, table
from benchmarks.question import make_parser


def test_the_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_the_medians() -> None:
    ours, theirs = [1.0, 8.0, 30.0], [2.0, 20.0, 10.0]
    assert ratio_of(ours, theirs) == Ratio(0.5, 0.4, 3.0, 3)
    assert Rounds({"ours": ours, "theirs": theirs}).ratio("ours", "theirs").median == 0.5
    assert Rounds({"ours": ours}).medians() == {"ours": 8.0}


def test_an_even_number_of_rounds_has_the_mean_of_the_middle_two() -> None:
    assert ratio_of([1.0, 2.0, 4.0, 9.0], [1.0, 1.0, 1.0, 1.0]).median == 3.0


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0])])
def test_what_has_no_ratio_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ratio_of(ours, theirs)


def test_a_drift_that_both_sides_feel_leaves_no_trace() -> None:
    drift = [1.0, 0.5, 3.0, 0.1, 2.0]
    ratio = ratio_of([0.9 * speed for speed in drift], drift)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.9, 0.9, 0.9))


def test_sides_alternate_and_the_warm_up_does_not_count() -> None:
    ran: list[tuple[str, int]] = []

    def side(name: str) -> float:
        return float(100 * len(name) + ran[-1][1])

    def measure(name: str, number: int) -> float:
        ran.append((name, number))
        return side(name)

    said: list[str] = []
    rounds = alternate(
        {"a": lambda number: measure("a", number), "bb": lambda number: measure("bb", number)},
        3,
        say=said.append,
    )
    assert ran == [("bb", 0), ("a", 0), ("a", 1), ("bb", 1), ("bb", 2), ("a", 2), ("a", 3), ("bb", 3)]
    assert rounds.sides == {"a": [101.0, 102.0, 103.0], "bb": [201.0, 202.0, 203.0]}
    assert said[0].startswith("warm-up")
    assert said[-1] == "round 3 of 3: a 103 · bb 203"


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        alternate({"a": float}, 0)


def outcome(name: str = "idle") -> Outcome:
    ratio = Ratio(0.9512, 0.9, 1.0, 5)
    figures = [Figure.of_ratio("speed", ratio, 0.98), Figure.of_ratio("other", ratio)]
    machine = {"processor": "a processor", "memory": "23 GiB", "load": "0.1"}
    raw = {"ours": [1.0], "stock": [1.0]}
    return Outcome(
        name=name,
        question="asked",
        figures=figures,
        settings={"rounds": 5},
        raw=raw,
        machine=machine,
        date="today",
    )


def test_a_missed_aim_says_by_how_much() -> None:
    first, second = outcome().figures
    assert (first.shown, first.aim, first.verdict) == (
        "0.95 [0.90–1.00], n = 5",
        "at least 0.98",
        "missed by 0.03",
    )
    assert (second.aim, second.verdict) == ("", "")
    assert Figure(label="x", shown="1", value=0.98, at_least=0.98).verdict == "met"


def test_the_table_has_a_line_for_each_figure_and_names_each_machine_once() -> None:
    text = table([outcome("idle"), outcome("mixed")])
    assert text.splitlines()[2:4] == [
        "| `idle`: asked | speed | 0.95 [0.90–1.00], n = 5 | at least 0.98 | missed by 0.03 |",
        "|  | other | 0.95 [0.90–1.00], n = 5 |  |  |",
    ]
    assert text.splitlines()[-1] == (
        "Measured today: a processor, 23 GiB (`idle` at load 0.1, `mixed` at load 0.1)."
    )


def test_an_outcome_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = save_outcome(outcome(), tmp_path / "new")
    assert read_outcome(saved) == outcome()
    assert json.loads(saved.read_text())["raw"] == {"ours": [1.0], "stock": [1.0]}


def test_the_table_is_put_between_its_marks_and_nowhere_else() -> None:
    readme = README.read_text(encoding="utf-8")
    once = put_table(readme, [outcome()])
    assert "| `idle`: asked |" in once
    assert put_table(once, [outcome("mixed")]).count("asked |") == 1
    assert once.partition("<!--")[0] == readme.partition("<!--")[0]
    assert once.rpartition("-->")[2] == readme.rpartition("-->")[2]
    with pytest.raises(ValueError, match="measured"):
        put_table("no marks", [outcome()])


def test_the_machine_is_described_without_its_name() -> None:
    described = describe()
    assert {"processor", "memory", "vllm", "torch"} <= described.keys()
    name = Path("/etc/hostname")
    host = name.read_text().strip() if name.is_file() else ""
    assert not host or all(host not in said for said in described.values())


@pytest.mark.parametrize("name", [*QUESTIONS, "all", "table"])
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m benchmarks {name}" in said
    if name in QUESTIONS:
        question = find_question(name)
        assert question.name == name
        assert all(part in said for part in (question.asks, "Figure", "--rounds N"))
        assert all(f"--{option.replace('_', '-')} N" in said for option in question.options)


def test_a_run_with_other_options_than_the_usual_says_so() -> None:
    question = find_question("tiers")
    usual = make_parser(question).parse_args([])
    assert question.found(usual, [], {}).question == question.asks
    other = make_parser(question).parse_args(["--tasks", "44", "--model", "somewhere/tiny", "--rounds", "2"])
    assert question.found(other, [], {}).question == f"{question.asks} (here: model tiny, tasks 44)"
    assert "somewhere" not in question.found(other, [], {}).json_line()


def test_without_a_name_the_questions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in QUESTIONS)
    assert main(["nonsense"]) == 2


def test_a_number_of_rounds_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["idle", "--rounds", "0"])
    assert "expected 1 or more, came 0" in capsys.readouterr().err
