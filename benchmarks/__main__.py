"""The command: `python -m benchmarks NAME [--rounds N] …`, one question a name.

python -m benchmarks                  the questions
python -m benchmarks idle --help      what one measures, and its options
python -m benchmarks idle             measures it: a table line, and JSON in runs/benchmarks/idle.json
python -m benchmarks all              every question, then the table in benchmarks/README.md
python -m benchmarks table            that table alone, from what lies in runs/benchmarks
"""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.outcome import Outcome, read_outcome, save_outcome, table
from benchmarks.question import Question, add_shared_options, make_parser

__all__ = ["QUESTIONS", "find_question", "main", "put_table"]

QUESTIONS = {
    "idle": "benchmarks.idle",
    "mixed": "benchmarks.mixed",
    "lora": "benchmarks.lora",
    "in-context": "benchmarks.in_context",
    "tiers": "benchmarks.tiers",
    "transformers": "benchmarks.by_hand",
    "prefix": "benchmarks.prefix",
    "tvp-steps": "benchmarks.tvp_steps",
    "m2pt-steps": "benchmarks.m2pt_steps",
    "m2pt-ranks": "benchmarks.m2pt_ranks",
}
README = Path(__file__).with_name("README.md")
_MARKS = ("<!-- measured: written by `python -m benchmarks table` -->", "<!-- /measured -->")


def find_question(name: str) -> Question:
    """The question of a name of `QUESTIONS`."""
    question = import_module(QUESTIONS[name]).QUESTION
    assert isinstance(question, Question)
    return question


def put_table(text: str, outcomes: Sequence[Outcome]) -> str:
    """`text` with the table of these outcomes between its two marks.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    before, found, rest = text.partition(_MARKS[0])
    _, closed, after = rest.partition(_MARKS[1])
    if not found or not closed or _MARKS[0] in rest or _MARKS[1] in after:
        raise ValueError(f"expected {_MARKS[0]!r} and then {_MARKS[1]!r} once each")
    return f"{before}{_MARKS[0]}\n\n{table(outcomes)}\n\n{_MARKS[1]}{after}"


def main(argv: list[str] | None = None) -> int:
    """Runs one question, all of them, or writes the table. Returns 0, or 1 where something failed."""
    arguments = sys.argv[1:] if argv is None else argv
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in QUESTIONS:
        options = make_parser(find_question(name)).parse_args(rest)
        print(_measure(name, options).json_line())
        return 0
    if name == "all":
        return _measure_all(_parser_of_all().parse_args(rest))
    if name == "table":
        argparse.ArgumentParser(prog="python -m benchmarks table", description=_TABLE_HELP).parse_args(rest)
        _write_table()
        return 0
    known = "\n".join(f"  {one:<14}{find_question(one).asks}" for one in QUESTIONS)
    print(f"{__doc__}\nquestions:\n{known}", file=sys.stdout if name in ("-h", "--help") else sys.stderr)
    return 0 if name in ("-h", "--help") else 2


_TABLE_HELP = "Writes the table in benchmarks/README.md from the last run of each question."


def _parser_of_all() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks all",
        description="Measures every question and writes the table in benchmarks/README.md: half an hour or "
        "more on two cores, with nothing else running on them.",
    )
    add_shared_options(parser, rounds=None)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="fewer of them")
    return parser


def _measure_all(options: argparse.Namespace) -> int:
    failed = []
    for name in options.only:
        own = make_parser(find_question(name)).parse_args([])
        shared = {"model": options.model, "dtype": options.dtype, "rounds": options.rounds or own.rounds}
        try:
            _measure(name, argparse.Namespace(**{**vars(own), **shared}))
        except Exception:  # one that fails costs its own figures, not the half hour of the others
            traceback.print_exc()
            failed.append(name)
    _write_table()
    if failed:
        print(f"failed: {', '.join(failed)}; the table shows their last run, if any", file=sys.stderr)
    return 1 if failed else 0


def _measure(name: str, options: argparse.Namespace) -> Outcome:
    from benchmarks.machine import describe

    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{name} {time.monotonic() - started:5.0f} s] {line}", file=sys.stderr, flush=True)

    machine = describe()
    outcome = find_question(name).run(options, say)
    outcome = replace(outcome, machine=machine, date=time.strftime("%Y-%m-%d"))
    say(f"saved {save_outcome(outcome, _results())}")
    print("\n".join(outcome.rows()), file=sys.stderr, flush=True)
    return outcome


def _results() -> Path:
    from training.paths import run_folder

    return run_folder("benchmarks")


def _write_table() -> None:
    files = [_results() / f"{name}.json" for name in QUESTIONS]
    outcomes = [read_outcome(file) for file in files if file.is_file()]
    README.write_text(put_table(README.read_text(encoding="utf-8"), outcomes), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
