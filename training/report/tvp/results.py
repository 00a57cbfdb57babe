"""Everything a report knows after its jobs: answers by frame, target and task, and gains made of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.report.answers import Answers, Corruption
from training.report.tvp.config import Method, ReportConfig
from training.report.tvp.frames import Trained
from training.report.tvp.plan import FrameJob, asks_the_judge
from training.statistics import Gain, mean_gain

__all__ = ["Results", "Targets"]

Difference = NDArray[np.float64]
Targets = Callable[[FrameJob], Iterable[str]]
"""The models that a frame is looked at on."""


@dataclass
class Results:
    """Answers and trainings of one report.

    Attributes:
        seen_by_judge: models whose tower is the judge's: a frame trained with TSE has had a gradient of it.
        base: (target, task) to the answers without a frame.
        framed: (frame, target) to the answers with it, on the task it was trained for.
        marred: (frame or None, corruption) to answers on corrupted pictures, of the corruption study.
    """

    config: ReportConfig
    seen_by_judge: frozenset[str] = frozenset()
    trained: dict[FrameJob, Trained] = field(default_factory=dict)
    base: dict[tuple[str, str], Answers] = field(default_factory=dict)
    framed: dict[tuple[FrameJob, str], Answers] = field(default_factory=dict)
    marred: dict[tuple[FrameJob | None, Corruption | None], Answers] = field(default_factory=dict)

    def gain_of(self, job: FrameJob, target: str) -> Difference:
        """(n,) −1, 0 or 1: right with the frame minus right without."""
        return self.framed[job, target].right - self.base[target, job.task].right

    def frames(self, method: Method, *, source: str | None = None, task: str | None = None) -> list[FrameJob]:
        """A method's frames of the grid (its sources and seeds, all of the data); of one source, one task."""
        return [
            job
            for job in self.trained
            if job.method == method
            and job.share is None
            and job.sources[0] in self.config.sources
            and job.seed in self.config.seeds
            and source in (None, job.sources[0])
            and task in (None, job.task)
        ]

    def black_boxes(self, job: FrameJob) -> list[str]:
        """The models a frame has had no gradient of."""
        seen = {*job.sources, *(self.seen_by_judge if asks_the_judge(job.method) else ())}
        return [name for name in self.config.models if name not in seen]

    def shared_black_boxes(self, jobs: Iterable[FrameJob]) -> Targets:
        """For each frame the black boxes that all `jobs` of its first source and task have."""
        shared: dict[tuple[str, str], list[str]] = {}
        for job in jobs:
            own, place = self.black_boxes(job), (job.sources[0], job.task)
            shared[place] = [name for name in shared.get(place, own) if name in own]
        return lambda job: shared[job.sources[0], job.task]

    def mean_gain(
        self, jobs: Sequence[FrameJob], targets: Targets, *, over: Method | None = None
    ) -> Gain | None:
        """The mean gain over frames and their targets; None where there is nothing to average.

        A task is a group: its sources and targets see the same pictures, and every model's answers without
        a prompt are in the gains of all sources.

        Args:
            over: gain over the frame of this method from the same source, task and seed instead of none.
        """
        groups = []
        for task in dict.fromkeys(job.task for job in jobs):
            by_seed: dict[int, list[Difference]] = {}
            for job in jobs:
                if job.task == task:
                    gains = [self._difference(job, target, over) for target in targets(job)]
                    by_seed.setdefault(job.seed, []).extend(gains)
            groups += _stacked(by_seed)
        return mean_gain(groups) if groups else None

    def gain_on(self, jobs: Sequence[FrameJob], target: str) -> Gain | None:
        """The mean gain over frames on one model."""
        return self.mean_gain(jobs, lambda _: [target])

    def _difference(self, job: FrameJob, target: str, over: Method | None) -> Difference:
        if over is None:
            return self.gain_of(job, target)
        other = FrameJob(over, job.sources[:1], job.task, job.seed)
        return self.gain_of(job, target) - self.gain_of(other, target)


def _stacked(by_seed: dict[int, list[Difference]]) -> list[NDArray[np.float64]]:
    """One group (S, M, n) of gains by seed; seeds measured on fewer models make a group of their own."""
    by_count: dict[int, list[NDArray[np.float64]]] = {}
    for gains in by_seed.values():
        if gains:
            by_count.setdefault(len(gains), []).append(np.stack(gains))
    return [np.stack(seeds) for seeds in by_count.values()]
