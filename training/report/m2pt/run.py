"""Runs a report's jobs: trainings first, then measurements; what is done is not done again."""

from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from prompts.bundle import Bundle
from training.backbone import LlavaBackbone
from training.baselines import Saved, load_saved
from training.data import DataConfig, make_source
from training.evaluate import choices_of
from training.report.answers import Answers, answers_digest, measure, read_answers
from training.report.digests import model_digest, tuning_digest
from training.report.m2pt.attention import look_at
from training.report.m2pt.check import check
from training.report.m2pt.config import AttentionConfig, ReportConfig
from training.report.m2pt.plan import TuningJob, plan_jobs, training_config
from training.report.m2pt.results import Looked, Results
from training.report.m2pt.tuned import Tuned, read_tuned, tune

__all__ = ["count_measurements", "run_report"]


def run_report(config: ReportConfig) -> Results:
    """Trains and measures whatever is not yet in the cache.

    Raises:
        ConfigError: the model or data is not there, or a training failed.
        KeyboardInterrupt: stopped; the same call goes on from there.
    """
    check(config)
    results = Results(config)
    _train_all(config, results)
    _measure_all(config, results)
    return results


def count_measurements(config: ReportConfig) -> int:
    """How many measurements a report makes."""
    return len(config.tasks) + sum(len(_measured(config, job)) for job in plan_jobs(config))


def _measured(config: ReportConfig, job: TuningJob) -> list[str]:
    """The tasks a training is measured on; the study of lengths is about the unseen ones."""
    return list(config.tasks if job.lengths is None else config.unseen)


def _train_all(config: ReportConfig, results: Results) -> None:
    jobs, console = plan_jobs(config), Console()
    for number, job in enumerate(jobs, start=1):
        training = training_config(config, job, out=config.cache)
        folder = config.cache / "tuned" / tuning_digest(training)
        if read_tuned(folder) is None:
            console.rule(f"training {number} of {len(jobs)}: {job.title}")
        results.tuned[job] = tune(training, folder)


def _measure_all(config: ReportConfig, results: Results) -> None:
    plain: list[LlavaBackbone] = []
    with tqdm(total=count_measurements(config), desc="measurements", unit="") as bar:
        asked = _Asked(config, None, plain)
        for task in config.tasks:
            bar.set_postfix_str(f"none: {task}")
            results.base[task] = asked.answers(task)
            bar.update()
        if config.how == "ranking":
            results.guessing = {task: _guessing(told.test) for task, told in config.tasks.items()}
        for job, tuned in results.tuned.items():
            asked = _Asked(config, tuned, plain)
            for task in _measured(config, job):
                bar.set_postfix_str(f"{job.title}: {task}")
                results.answers[job, task] = asked.answers(task)
                bar.update()
    if config.attention is not None:
        _look(config, config.attention, results, plain)


def _guessing(data: DataConfig) -> float:
    source = make_source(data)
    return sum(1 / len(choices_of(source[place])) for place in range(len(source))) / len(source)


def _look(config: ReportConfig, told: AttentionConfig, results: Results, plain: list[LlavaBackbone]) -> None:
    """Looks at the first pictures of each unseen task, with the first seed's M²PT."""
    job = results.jobs("m2pt")[0]
    bundle = results.tuned[job].result
    assert isinstance(bundle, Bundle)
    backbone = _Asked(config, None, plain).unchanged()
    for task, entry in config.unseen.items():
        source, said = make_source(entry), results.answers[job, task].said
        for place in range(min(told.pictures, len(source))):
            example = source[place]
            if example.picture is not None:
                look = look_at(backbone, bundle, example, layers=told.layers)
                results.looks.append(Looked(task, example.question, example.answer, said[place], look))


class _Asked:
    """The model with one training's result; loaded when the first measurement is not in the cache."""

    def __init__(self, config: ReportConfig, tuned: Tuned | None, plain: list[LlavaBackbone]) -> None:
        """`plain`: empty, or the model as it is, which prompts leave alone; shared by all."""
        self._config, self._tuned, self._plain = config, tuned, plain
        self._ready: tuple[LlavaBackbone, Bundle | None] | None = None
        self._digest = model_digest(config.model)

    def answers(self, task: str) -> Answers:
        """Read from the cache, or measured."""
        told = self._config.tasks[task]
        learned = None if self._tuned is None else self._tuned.digest
        digest = answers_digest(told, self._digest, self._config.recipe.dtype, learned)
        file: Path = self._config.cache / "answers" / f"{digest}.json"
        found = read_answers(file)
        if found is not None:
            return found
        if self._ready is None:
            self._ready = self._load()
        backbone, bundle = self._ready
        return measure(backbone, told, bundle, batch=self._config.batch, file=file)

    def _load(self) -> tuple[LlavaBackbone, Bundle | None]:
        result = None if self._tuned is None else self._tuned.result
        if isinstance(result, Saved):
            backbone = self.unchanged() if result.is_prompt else self._fresh()
            return backbone, load_saved(result, backbone, self._config.model, self._config.usage)
        return self.unchanged(), result

    def unchanged(self) -> LlavaBackbone:
        """The model as it is."""
        if not self._plain:
            self._plain.append(self._fresh())
        return self._plain[0]

    def _fresh(self) -> LlavaBackbone:
        return LlavaBackbone.load(self._config.model, dtype=self._config.recipe.dtype)
