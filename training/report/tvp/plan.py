"""From a report's config to its jobs: which frame is trained how, and on what it is measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prompts.manifest import FrameSpec
from training.config import TvpConfig, TvpOptions
from training.report.tvp.config import Method, ReportConfig

__all__ = ["FrameJob", "asks_the_judge", "plan_frames", "tvp_config"]


_NO_STEP = 1e-9
"""Of a frame that learns nothing: a step that is no longer than this leaves it black."""


@dataclass(frozen=True)
class FrameJob:
    """One frame to train.

    Attributes:
        sources: names of the models it is trained through; the others are black boxes to it.
        share: of the training examples, for the data-scale study; None elsewhere.
    """

    method: Method
    sources: tuple[str, ...]
    task: str
    seed: int
    share: float | None = None

    @property
    def title(self) -> str:
        """For people."""
        share = "" if self.share is None else f" · {100 * self.share:g} % of the data"
        return f"{self.method} · {' + '.join(self.sources)} · {self.task} · seed {self.seed}{share}"


def plan_frames(config: ReportConfig) -> list[FrameJob]:
    """Every frame of a report, each once, seeds outermost: an interrupted report has whole seeds."""
    return list(dict.fromkeys([*_grid(config), *_ablation(config), *_scale(config)]))


def _grid(config: ReportConfig) -> Iterator[FrameJob]:
    for seed in config.seeds:
        for task in config.tasks:
            for source in config.sources:
                for method in config.methods:
                    yield FrameJob(method, _sources(config, method, source), task, seed)


def _ablation(config: ReportConfig) -> Iterator[FrameJob]:
    if config.ablation is None:
        return
    for seed in config.ablation.seeds:
        for task in config.tasks:
            for source in config.ablation.sources:
                for method in config.ablation.methods:
                    yield FrameJob(method, _sources(config, method, source), task, seed)


def _scale(config: ReportConfig) -> Iterator[FrameJob]:
    study = config.scale
    if study is None:
        return
    for seed in study.seeds:
        for share in study.shares:
            yield FrameJob("tvp", (study.source,), study.task, seed, share)


def _sources(config: ReportConfig, method: Method, source: str) -> tuple[str, ...]:
    """An ensemble is of the source and the model after it in the config."""
    if method != "ensemble":
        return (source,)
    names = list(config.models)
    return source, names[(names.index(source) + 1) % len(names)]


def asks_the_judge(method: Method) -> bool:
    """Whether a method trains with task semantics enrichment."""
    return method in ("tvp", "tvp-without-fca", "ensemble")


def tvp_config(config: ReportConfig, job: FrameJob, *, out: Any) -> TvpConfig:
    """The training job of a frame, as `passepartout train tvp` takes it."""
    recipe, task = config.recipe, config.tasks[job.task]
    data = task.train
    if job.share is not None and config.scale is not None:
        count = max(1, round(job.share * config.scale.examples))
        data = data.model_copy(update={"size" if "size" in type(data).model_fields else "limit": count})
    plain, learns = job.method in ("untrained", "vp", "evp"), job.method != "untrained"
    frame = recipe.frame
    if job.method == "vp":
        frame = FrameSpec(canvas=frame.canvas, inner=min(frame.canvas), resample=frame.resample, free="all")
    options = TvpOptions(
        frame=frame,
        lambda_fca=0.0 if plain or job.method == "tvp-without-fca" else recipe.lambda_fca,
        lambda_tse=recipe.lambda_tse if task.named and asks_the_judge(job.method) else 0.0,
        clip=recipe.judge,
        also=tuple(config.models[name] for name in job.sources[1:]),
        random_crop=recipe.random_crop,
        flip=recipe.flip,
    )
    return TvpConfig(
        name=job.method,
        model=config.models[job.sources[0]],
        out=out,
        data=data,
        steps=recipe.steps if learns else 1,
        batch=recipe.batch,
        lr=recipe.lr if learns else _NO_STEP,
        seed=job.seed,
        dtype=recipe.dtype,
        loss_over=task.loss_over,
        usage=task.usage,
        canary=0,
        tvp=options,
    )
