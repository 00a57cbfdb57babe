"""What a benchmark found: figures with their aims, as JSON and as lines of a Markdown table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.harness import Ratio

__all__ = ["Figure", "Outcome", "read_outcome", "save_outcome", "table"]

_HEAD = "| question | figure | measured | aim | |\n|---|---|---|---|---|"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number.

    `shown` is how it is written (a ratio with its spread, a share with its interval), `value` is what is held
    against `at_least`; without an aim it is told for its own sake.
    """

    label: str
    shown: str
    value: float
    at_least: float | None = None

    @classmethod
    def of_ratio(cls, label: str, ratio: Ratio, at_least: float | None = None) -> Self:
        """A ratio with its spread and its rounds."""
        return cls(label=label, shown=f"{ratio}, n = {ratio.rounds}", value=ratio.median, at_least=at_least)

    @property
    def aim(self) -> str:
        """The aim in words, nothing where there is none."""
        return "" if self.at_least is None else f"at least {self.at_least:g}"

    @property
    def verdict(self) -> str:
        """Whether the aim is met, or by how much it is missed."""
        if self.at_least is None:
            return ""
        missing = self.at_least - self.value
        return "met" if missing <= 0 else f"missed by {missing:.2f}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that one run of a benchmark found.

    `settings`: what was run; `raw`: each side's values round by round; `machine`: see `machine.describe`.
    """

    name: str
    question: str
    figures: Sequence[Figure]
    settings: Mapping[str, Any]
    raw: Mapping[str, Any]
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""

    def json_line(self) -> str:
        """All of it on one line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def rows(self) -> list[str]:
        """A table line for each figure; the first one names the question."""
        heads = [f"`{self.name}`: {self.question}", *[""] * (len(self.figures) - 1)]
        return [
            f"| {head} | {one.label} | {one.shown} | {one.aim} | {one.verdict} |"
            for head, one in zip(heads, self.figures, strict=True)
        ]


def table(outcomes: Sequence[Outcome]) -> str:
    """The Markdown table of several outcomes, and under it where and when each was measured."""
    rows = [row for outcome in outcomes for row in outcome.rows()]
    places: dict[str, list[str]] = {}
    for outcome in outcomes:
        facts = ", ".join(str(value) for name, value in outcome.machine.items() if name != "load")
        load = outcome.machine.get("load", "unknown")
        places.setdefault(f"{outcome.date}: {facts}", []).append(f"`{outcome.name}` at load {load}")
    measured = [f"Measured {place} ({', '.join(names)})." for place, names in places.items()]
    return "\n".join([_HEAD, *rows, "", *measured])


def save_outcome(outcome: Outcome, folder: Path) -> Path:
    """Writes `folder/NAME.json` in the place of the last run's, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{outcome.name}.json"
    file.write_text(outcome.json_line() + "\n", encoding="utf-8")
    return file


def read_outcome(file: Path) -> Outcome:
    """What `save_outcome` wrote."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    return Outcome(**{**plain, "figures": [Figure(**one) for one in plain["figures"]]})
