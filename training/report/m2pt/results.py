"""Everything a report knows after its jobs: answers by training and task, and what they come to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from training.report.answers import Answers
from training.report.m2pt.attention import Look
from training.report.m2pt.config import Method, ReportConfig
from training.report.m2pt.plan import TuningJob
from training.report.m2pt.tuned import Tuned
from training.statistics import Gain, Score, mean_gain, mean_score

__all__ = ["Looked", "Results"]


@dataclass(frozen=True)
class Looked:
    """One example of a task, its attention, and the answer beside the one wanted."""

    task: str
    question: str
    wanted: str
    said: str
    look: Look


@dataclass
class Results:
    """Answers and trainings of one report.

    Attributes:
        base: task to the model's own answers.
        guessing: task to the accuracy of choices drawn blindly; empty where nothing is ranked.
        tuned: each training's result.
        answers: (training, task) to the answers with it.
        looks: where M²PT's first seed looks, on examples of the unseen tasks.
    """

    config: ReportConfig
    base: dict[str, Answers] = field(default_factory=dict)
    guessing: dict[str, float] = field(default_factory=dict)
    tuned: dict[TuningJob, Tuned] = field(default_factory=dict)
    answers: dict[tuple[TuningJob, str], Answers] = field(default_factory=dict)
    looks: list[Looked] = field(default_factory=list)

    def jobs(self, method: Method, lengths: tuple[int, int] | None = None) -> list[TuningJob]:
        """A method's trainings, one a seed; with `lengths`, those of the study."""
        return [job for job in self.tuned if (job.method, job.lengths) == (method, lengths)]

    def values(self, method: Method) -> int:
        """How many values a method learns."""
        return max((self.tuned[job].values for job in self.jobs(method)), default=0)

    def score(self, method: Method, tasks: Sequence[str], lengths: tuple[int, int] | None = None) -> Score:
        """Accuracy, the mean over tasks and seeds.

        A task's example i is drawn with the other tasks' examples i, and a seed for all tasks at once: the
        tasks share their trainings, and their pictures are as many as independent.
        """
        return mean_score([self._right(method, tasks, lengths)])

    def guess(self, tasks: Iterable[str]) -> float:
        """Accuracy of choices drawn blindly, the mean over tasks; of a report that ranks."""
        return fmean(self.guessing[task] for task in tasks)

    def gain(self, method: Method, over: Method, tasks: Sequence[str]) -> Gain:
        """How much more often one method is right than another, paired by seed and picture."""
        return mean_gain([self._right(method, tasks) - self._right(over, tasks)])

    def _right(
        self, method: Method, tasks: Sequence[str], lengths: tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """(S, M, n) 1 where the answer is right; without tuning every seed has the same answers."""
        if method == "none":
            return np.stack([_of_tasks(self.base[task] for task in tasks)] * len(self.config.seeds))
        jobs = self.jobs(method, lengths)
        return np.stack([_of_tasks(self.answers[job, task] for task in tasks) for job in jobs])


def _of_tasks(answers: Iterable[Answers]) -> NDArray[np.float64]:
    return np.stack([one.right for one in answers])
