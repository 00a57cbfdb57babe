"""A question that a benchmark answers, and the options that all questions share."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.outcome import Figure, Outcome

__all__ = ["Question", "Say", "add_shared_options", "count", "make_parser"]

Say = Callable[[str], None]
"""Shows a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One benchmark.

    `asks`: the question in one clause; `teaches`: what is measured and how, for `--help`; `rounds`: by
    default; `run`: measures; `options`: name -> (default, meaning) of its own whole-number options.
    """

    name: str
    asks: str
    teaches: str
    rounds: int
    run: Callable[[argparse.Namespace, Say], Outcome]
    options: Mapping[str, tuple[int, str]]

    def found(
        self, options: argparse.Namespace, figures: Sequence[Figure], raw: Mapping[str, Any]
    ) -> Outcome:
        """The outcome of a run with these options; of the model's path its last part alone."""
        settings = {
            name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()
        }
        usual = {"model": None, "dtype": "auto", **{name: one[0] for name, one in self.options.items()}}
        other = [f"{name} {settings[name]}" for name in usual if settings[name] != usual[name]]
        asked = f"{self.asks} (here: {', '.join(other)})" if other else self.asks
        return Outcome(
            name=self.name, question=asked, figures=list(figures), settings=settings, raw=dict(raw)
        )


def make_parser(question: Question) -> argparse.ArgumentParser:
    """The command line of `python -m benchmarks NAME`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {question.name}",
        description=f"{question.asks}.\n\n{question.teaches}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_shared_options(parser, rounds=question.rounds)
    for name, (default, meaning) in question.options.items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=count,
            default=default,
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )
    return parser


def add_shared_options(parser: argparse.ArgumentParser, *, rounds: int | None) -> None:
    """Options of every question; `rounds` None: each question's own number."""
    said = "each question's own" if rounds is None else "%(default)s"
    parser.add_argument(
        "--rounds",
        type=count,
        default=rounds,
        metavar="N",
        help=f"counted rounds; the median of their ratios is the figure (default: {said})",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="a checkpoint in LLaVA's layout (default: pico-llava, built where it is not yet)",
    )
    parser.add_argument(
        "--dtype", default="auto", help="of weights and activations, as vLLM names it (default: %(default)s)"
    )


def count(text: str) -> int:
    """A whole number, 1 or more, from a command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, came {number}")
    return number
