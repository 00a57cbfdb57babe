"""Everything a report knows after its jobs: answers by frame, target and task, and gains made of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.report.answers import Answers, Corruption
from training.report.config import Method, ReportConfig
from training.report.frames import Trained
from training.report.plan import FrameJob
from training.statistics import Gain, mean_gain

__all__ = ["Results"]

Difference = NDArray[np.float64]


@dataclass
class Results:
    """Answers and trainings of one report.

    Attributes:
        base: (target, task) to the answers without a frame.
        framed: (frame, target) to the answers with it, on the task it was trained for.
        marred: (frame or None, corruption) to answers on corrupted pictures, of the corruption study.
    """

    config: ReportConfig
    trained: dict[FrameJob, Trained] = field(default_factory=dict)
    base: dict[tuple[str, str], Answers] = field(default_factory=dict)
    framed: dict[tuple[FrameJob, str], Answers] = field(default_factory=dict)
    marred: dict[tuple[FrameJob | None, Corruption | None], Answers] = field(default_factory=dict)

    def gain_of(self, job: FrameJob, target: str) -> Difference:
        """(n,) −1, 0 or 1: right with the frame minus right without."""
        return self.framed[job, target].right - self.base[target, job.task].right

    def frames(self, method: Method, *, source: str | None = None, task: str | None = None) -> list[FrameJob]:
        """Frames of a method, trained on all of the data; of one first source and one task where given."""
        return [
            job
            for job in self.trained
            if job.method == method
            and job.share is None
            and source in (None, job.sources[0])
            and task in (None, job.task)
        ]

    def black_boxes(self, job: FrameJob) -> list[str]:
        """The models a frame has never seen."""
        return [name for name in self.config.models if name not in job.sources]

    def mean_gain(
        self,
        jobs: Sequence[FrameJob],
        targets: Callable[[FrameJob], Iterable[str]],
        *,
        over: Method | None = None,
    ) -> Gain | None:
        """The mean gain over frames and their targets; None where there is nothing to average.

        Frames of one source and task are a group: its seeds and targets share pictures.

        Args:
            over: gain over the frame of this method from the same source, task and seed instead of none.
        """
        grouped: dict[tuple[tuple[str, ...], str], list[FrameJob]] = {}
        for job in jobs:
            grouped.setdefault((job.sources, job.task), []).append(job)
        groups = [
            np.stack([self._differences(job, targets(job), over) for job in group])
            for group in grouped.values()
            if list(targets(group[0]))
        ]
        return mean_gain(groups) if groups else None

    def gain_on(self, jobs: Sequence[FrameJob], target: str) -> Gain | None:
        """The mean gain over frames on one model."""
        return self.mean_gain(jobs, lambda _: [target])

    def _differences(self, job: FrameJob, targets: Iterable[str], over: Method | None) -> Difference:
        """(targets, n)."""
        return np.stack([self._difference(job, target, over) for target in targets])

    def _difference(self, job: FrameJob, target: str, over: Method | None) -> Difference:
        if over is None:
            return self.gain_of(job, target)
        other = FrameJob(over, job.sources[:1], job.task, job.seed)
        return self.gain_of(job, target) - self.gain_of(other, target)
