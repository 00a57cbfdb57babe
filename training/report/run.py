"""Runs a report's jobs: frames first, then a target at a time; what is done is not done again."""

from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from prompts.bundle import Bundle
from prompts.errors import ConfigError
from training.backbone import Backbone, load_backbone
from training.corruptions import CORRUPTIONS
from training.preflight import checkpoint_faults
from training.report.answers import Answers, Corruption, answers_digest, measure, read_answers
from training.report.config import ReportConfig, TaskConfig
from training.report.digests import data_digest, frame_digest, model_digest
from training.report.frames import train_frame
from training.report.plan import FrameJob, plan_frames, tvp_config
from training.report.results import Results

__all__ = ["run_report"]


def run_report(config: ReportConfig) -> Results:
    """Trains and measures whatever is not yet in the cache.

    Raises:
        ConfigError: a model or data is not there, or a training failed.
        KeyboardInterrupt: stopped; the same call goes on from there.
    """
    _check(config)
    results = Results(config)
    _train_all(config, results)
    _measure_all(config, results)
    return results


def _check(config: ReportConfig) -> None:
    """Hours of work must not end in a fault that the config showed from the beginning."""
    faults = [
        one for name, folder in config.models.items() for one in checkpoint_faults(f"models.{name}", folder)
    ]
    for name, task in config.tasks.items():
        for field, entry in (("train", task.train), ("test", task.test)):
            try:
                data_digest(entry)
            except ConfigError as error:
                faults += [f"tasks.{name}.{field}: {one}" for one in error.faults]
    if faults:
        raise ConfigError("report", faults)


def _train_all(config: ReportConfig, results: Results) -> None:
    jobs, console = plan_frames(config), Console()
    for number, job in enumerate(jobs, start=1):
        training = tvp_config(config, job, out=config.cache)
        folder = config.cache / "frames" / frame_digest(training)
        if not (folder / "bundle" / "bundle.json").is_file():
            console.rule(f"frame {number} of {len(jobs)}: {job.title}")
        results.trained[job] = train_frame(training, folder)


def _measure_all(config: ReportConfig, results: Results) -> None:
    asked = len(config.models) * (len(config.tasks) + len(results.trained)) + len(_marred(config, results))
    with tqdm(total=asked, desc="measurements", unit="") as bar:
        for name, folder in config.models.items():
            target = _Target(config, name, folder)
            for task in config.tasks:
                results.base[name, task] = target.answers(task, None)
                bar.update()
            for job, trained in results.trained.items():
                bar.set_postfix_str(f"{name}: {job.title}")
                results.framed[job, name] = target.answers(job.task, trained.bundle)
                bar.update()
            for frame, corruption in _marred(config, results):
                if config.corruption and config.corruption.source == name:
                    bundle = results.trained[frame].bundle if frame else None
                    found = target.answers(config.corruption.task, bundle, corruption)
                    results.marred[frame, corruption] = found
                    bar.update()


def _marred(config: ReportConfig, results: Results) -> list[tuple[FrameJob | None, Corruption | None]]:
    """The corruption study: without a frame and with the first seed's of each method of the grid."""
    study = config.corruption
    if study is None:
        return []
    frames: list[FrameJob | None] = [None]
    for method in config.methods:
        frames += results.frames(method, source=study.source, task=study.task)[:1]
    kinds: list[Corruption | None] = [None]
    kinds += [Corruption(kind, grade) for kind in study.kinds or CORRUPTIONS for grade in study.severities]
    return [(frame, kind) for frame in frames for kind in kinds]


class _Target:
    """One model, loaded when the first measurement is not in the cache."""

    def __init__(self, config: ReportConfig, name: str, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._backbone: Backbone | None = None
        self._fingerprint = model_digest(folder)

    def answers(self, task: str, bundle: Bundle | None, corruption: Corruption | None = None) -> Answers:
        """Read from the cache, or measured."""
        told: TaskConfig = self._config.tasks[task]
        digest = answers_digest(told, self._fingerprint, bundle, corruption)
        file = self._config.cache / "answers" / f"{digest}.json"
        found = read_answers(file)
        if found is None:
            if self._backbone is None:
                self._backbone = load_backbone(self._folder, dtype=self._config.recipe.dtype)
            found = measure(
                self._backbone, told, bundle, corruption=corruption, batch=self._config.batch, file=file
            )
        return found
