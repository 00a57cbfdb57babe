"""What a model said to a task's test examples, with a frame or without; measured once, then kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prompts.bundle import Bundle
from training.backbone import Backbone
from training.corruptions import CorruptedSource
from training.data import make_source
from training.evaluate import evaluate, normalise_answer
from training.paths import written_whole
from training.report.config import MeasuredTask
from training.report.digests import computed_in, data_digest, digest_of
from training.statistics import says_yes

__all__ = ["Answers", "Corruption", "answers_digest", "measure", "read_answers"]


@dataclass(frozen=True)
class Corruption:
    """One of `training.corruptions` on every test picture."""

    kind: str
    severity: int


@dataclass(frozen=True)
class Answers:
    """The answers wanted and those that came, in the order of the examples."""

    wanted: tuple[str, ...]
    said: tuple[str, ...]

    @property
    def right(self) -> NDArray[np.float64]:
        """(n,) 1 where the answer is right, else 0; normalised, and to yes/no questions as POPE reads it."""
        pairs = list(zip(self.wanted, self.said, strict=True))
        if self.is_yes_no:
            return np.array([says_yes(said) == (wanted == "yes") for wanted, said in pairs], float)
        return np.array([normalise_answer(wanted) == normalise_answer(said) for wanted, said in pairs], float)

    @property
    def kappa(self) -> float:
        """Cohen's κ: 0 where answers drawn blindly in the same proportions were right as often, 1 at best.

        0 too where nothing but the one wanted answer is said, which tells nothing.
        """
        from sklearn.metrics import cohen_kappa_score  # slow to import

        wanted, said = ([normalise_answer(one) for one in part] for part in (self.wanted, self.said))
        return 0.0 if {*wanted} == {*said} and len({*said}) == 1 else float(cohen_kappa_score(wanted, said))

    @property
    def is_yes_no(self) -> bool:
        """Whether only yes and no are wanted."""
        return set(self.wanted) <= {"yes", "no"}


def answers_digest(
    task: MeasuredTask, target: str, dtype: str, prompt: str | None, corruption: Corruption | None = None
) -> str:
    """Of a measurement; `target` and `prompt` are the digests of the model and of what it is asked with."""
    marred = None if corruption is None else [corruption.kind, corruption.severity]
    asked = [task.how, task.usage.model_dump(mode="json"), data_digest(task.test)]
    return digest_of([target, prompt, asked, marred, computed_in(dtype)])


def read_answers(file: Path) -> Answers | None:
    """What `measure` kept in `file`; None where it is not there."""
    if not file.is_file():
        return None
    pairs = json.loads(file.read_text(encoding="utf-8"))
    return _answers(pairs)


def measure(
    backbone: Backbone,
    task: MeasuredTask,
    bundle: Bundle | None,
    *,
    batch: int,
    file: Path,
    corruption: Corruption | None = None,
) -> Answers:
    """Asks every test example and keeps the answers in `file`, whole or not at all."""
    source = make_source(task.test)
    if corruption is not None:
        source = CorruptedSource(source, corruption.kind, corruption.severity, seed=0)
    graded = evaluate(backbone, source, bundle=bundle, usage=task.usage, how=task.how, batch=batch)
    pairs = [(_plain(one.wanted), one.said) for one in graded]
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as draft:
        draft.write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    return _answers(pairs)


def _plain(wanted: str) -> str:
    """`Yes.` is yes: a question that wants it is a yes/no question."""
    said = normalise_answer(wanted)
    return said if said in ("yes", "no") else wanted


def _answers(pairs: Sequence[Sequence[str]]) -> Answers:
    return Answers(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
