"""Runs a report's jobs: frames first, then a target at a time; what is done is not done again."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from prompts.bundle import Bundle
from training.backbone import Backbone, load_backbone
from training.corruptions import CORRUPTIONS
from training.report.answers import Answers, Corruption, answers_digest, measure, read_answers
from training.report.digests import frame_digest, model_digest
from training.report.tvp.check import check, seen_by_judge
from training.report.tvp.config import ReportConfig, TaskConfig
from training.report.tvp.frames import is_trained, train_frame
from training.report.tvp.plan import FrameJob, plan_frames, tvp_config
from training.report.tvp.results import Results

__all__ = ["count_measurements", "run_report"]


def run_report(config: ReportConfig) -> Results:
    """Trains and measures whatever is not yet in the cache.

    Raises:
        ConfigError: a model or data is not there, or a training failed.
        KeyboardInterrupt: stopped; the same call goes on from there.
    """
    check(config)
    results = Results(config, seen_by_judge=seen_by_judge(config))
    _train_all(config, results)
    _measure_all(config, results)
    return results


def count_measurements(config: ReportConfig) -> int:
    """How many measurements a report makes."""
    jobs = plan_frames(config)
    return len(config.models) * (len(config.tasks) + len(jobs)) + len(_marred(config, jobs))


def _train_all(config: ReportConfig, results: Results) -> None:
    jobs, console = plan_frames(config), Console()
    for number, job in enumerate(jobs, start=1):
        training = tvp_config(config, job, out=config.cache)
        folder = config.cache / "frames" / frame_digest(training)
        if not is_trained(folder):
            console.rule(f"frame {number} of {len(jobs)}: {job.title}")
        results.trained[job] = train_frame(training, folder)


def _measure_all(config: ReportConfig, results: Results) -> None:
    marred = _marred(config, list(results.trained))
    with tqdm(total=count_measurements(config), desc="measurements", unit="") as bar:
        for name, folder in config.models.items():
            target = _Target(config, name, folder)
            for task in config.tasks:
                results.base[name, task] = target.answers(task, None)
                bar.update()
            for job, trained in results.trained.items():
                bar.set_postfix_str(f"{name}: {job.title}")
                results.framed[job, name] = target.answers(job.task, trained.bundle)
                bar.update()
            if config.corruption is None or config.corruption.source != name:
                continue
            for frame, corruption in marred:
                bundle = results.trained[frame].bundle if frame else None
                found = target.answers(config.corruption.task, bundle, corruption)
                results.marred[frame, corruption] = found
                bar.update()


def _marred(
    config: ReportConfig, jobs: Sequence[FrameJob]
) -> list[tuple[FrameJob | None, Corruption | None]]:
    """The corruption study: without a frame and with the first seed's of each method of the grid."""
    study = config.corruption
    if study is None:
        return []
    frames: list[FrameJob | None] = [None]
    for method in config.methods:
        same = (method, study.source, study.task, None)
        frames += [job for job in jobs if (job.method, job.sources[0], job.task, job.share) == same][:1]
    kinds: list[Corruption | None] = [None]
    kinds += [Corruption(kind, grade) for kind in study.kinds or CORRUPTIONS for grade in study.severities]
    return [(frame, kind) for frame in frames for kind in kinds]


class _Target:
    """One model, loaded when the first measurement is not in the cache."""

    def __init__(self, config: ReportConfig, name: str, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._backbone: Backbone | None = None
        self._digest = model_digest(folder)

    def answers(self, task: str, bundle: Bundle | None, corruption: Corruption | None = None) -> Answers:
        """Read from the cache, or measured."""
        told: TaskConfig = self._config.tasks[task]
        dtype = self._config.recipe.dtype
        digest = answers_digest(told, self._digest, dtype, bundle.digest if bundle else None, corruption)
        file = self._config.cache / "answers" / f"{digest}.json"
        found = read_answers(file)
        if found is None:
            if self._backbone is None:
                self._backbone = load_backbone(self._folder, dtype=dtype)
            found = measure(
                self._backbone, told, bundle, corruption=corruption, batch=self._config.batch, file=file
            )
        return found
