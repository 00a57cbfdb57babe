"""A report's tables, as Markdown."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from training.report.answers import Answers
from training.report.config import METHODS, Method
from training.report.plan import FrameJob
from training.report.results import Results
from training.statistics import Gain, score, yes_no

__all__ = [
    "ablation",
    "base_accuracy",
    "corruption",
    "cost",
    "hallucination",
    "scale",
    "summary",
    "table",
    "transfer",
]

_MEGABYTE = 1e6


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(results: Results) -> str:
    """Each method of the whole grid: its gain over no prompt on its source and on black boxes."""
    rows = []
    for method in results.config.methods:
        jobs = results.frames(method)
        shifted = [job for job in jobs if results.config.tasks[job.task].shifted]
        rows.append(
            [
                f"**{method}**: {METHODS[method]}",
                _said(results.mean_gain(jobs, lambda job: job.sources[:1])),
                _said(results.mean_gain(shifted, lambda job: job.sources[:1])),
                _said(results.mean_gain(jobs, results.black_boxes)),
            ]
        )
    text = table(["method", "on its source", "on its source, shifted tasks", "on black-box models"], rows)
    if {"tvp", "evp"} <= set(results.config.methods):
        over = results.mean_gain(results.frames("tvp"), results.black_boxes, over="evp")
        text += f"\n\nTVP over EVP on black-box models, paired by source, task and seed: {_said(over)}."
    return text


def base_accuracy(results: Results) -> str:
    """Every model on every task without a prompt."""
    rows = [
        [name, *(str(score(list(results.base[name, task].right > 0))) for task in results.config.tasks)]
        for name in results.config.models
    ]
    return table(["model", *results.config.tasks], rows)


def transfer(results: Results, method: Method, task: str) -> str:
    """Sources down, targets across: the gain over no prompt, the mean over seeds."""
    rows = []
    for source in results.config.sources:
        jobs = results.frames(method, source=source, task=task)
        cells = [
            _cell(results, jobs, target, own=target in jobs[0].sources) if jobs else "–"
            for target in results.config.models
        ]
        black = results.mean_gain(jobs, results.black_boxes)
        rows.append([f"trained on {source}", *cells, _said(black)])
    return table(["", *results.config.models, "mean over black boxes"], rows)


def _cell(results: Results, jobs: Sequence[FrameJob], target: str, *, own: bool) -> str:
    gain = results.gain_on(jobs, target)
    if gain is None:
        return "–"
    text = f"{100 * gain.mean:+.0f} [{100 * gain.low:+.0f} to {100 * gain.high:+.0f}]"
    return f"*{text}*" if own else text


def ablation(results: Results) -> str:
    """All methods on what the ablation was made on: the same sources, tasks and seeds."""
    study = results.config.ablation
    assert study is not None
    rows = []
    for method in METHODS:
        jobs = [
            job
            for job in results.trained
            if job.method == method
            and job.share is None
            and job.sources[0] in study.sources
            and job.seed in study.seeds
        ]
        if jobs:
            own = results.mean_gain(jobs, lambda job: job.sources)
            black = results.mean_gain(jobs, results.black_boxes)
            rows.append([f"**{method}**: {METHODS[method]}", str(len(jobs)), _said(own), _said(black)])
    return table(["method", "frames", "on its sources", "on black-box models"], rows)


def hallucination(results: Results) -> str:
    """POPE's measures of every yes/no task: without a prompt, and the mean over frames from other models."""
    rows = []
    for task in results.config.tasks:
        for target in results.config.models:
            base = results.base[target, task]
            if base.is_yes_no:
                rows += [[f"{task} on {target}", *line] for line in _yes_no_lines(results, task, target)]
    heading = ["task", "prompt", "accuracy", "precision", "recall", "F1", "yes-ratio"]
    return table(heading, rows) if rows else ""


def _yes_no_lines(results: Results, task: str, target: str) -> Iterator[list[str]]:
    yield ["none", *_yes_no_figures([results.base[target, task]])]
    for method in results.config.methods:
        jobs = [job for job in results.frames(method, task=task) if target not in job.sources]
        if jobs:
            yield [method, *_yes_no_figures([results.framed[job, target] for job in jobs])]


def _yes_no_figures(answers: Sequence[Answers]) -> list[str]:
    """Percentages, the mean over several measurements."""
    measured = [yes_no(one.wanted, one.said) for one in answers]
    fields = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    return [f"{100 * float(np.mean([getattr(one, name) for one in measured])):.0f}" for name in fields]


def scale(results: Results) -> str:
    """Accuracy on the source over the share of the training examples."""
    study = results.config.scale
    assert study is not None
    heading = ["data", "examples", *results.config.models]
    rows = []
    for share in study.shares:
        jobs = [job for job in results.trained if job.share == share]
        cells = [_said(results.gain_on(jobs, name)) for name in results.config.models]
        rows.append([f"{100 * share:g} %", str(max(1, round(share * study.examples))), *cells])
    return table(heading, rows)


def corruption(results: Results) -> str:
    """Accuracy on corrupted pictures, the mean over severities."""
    frames = list(dict.fromkeys(frame for frame, _ in results.marred))
    kinds = list(dict.fromkeys(one.kind if one else "none" for _, one in results.marred))
    rows = []
    for kind in kinds:
        cells = []
        for frame in frames:
            right = [
                found.right
                for (which, one), found in results.marred.items()
                if which == frame and (one.kind if one else "none") == kind
            ]
            cells.append(str(score(list(np.concatenate(right) > 0))))
        rows.append([kind, *cells])
    return table(["corruption", *(frame.method if frame else "no prompt" for frame in frames)], rows)


def cost(results: Results) -> str:
    """Seconds and memory of each method's trainings."""
    rows = []
    for method in METHODS:
        costs = [trained.cost for job, trained in results.trained.items() if job.method == method]
        if costs:
            seconds = float(np.median([one.seconds for one in costs]))
            peak = max(one.peak_bytes for one in costs) / _MEGABYTE
            rows.append([method, str(len(costs)), f"{seconds:.0f}", f"{peak:,.0f}"])
    return table(["method", "frames", "seconds each (median)", "peak memory, MB"], rows)


def _said(gain: Gain | None) -> str:
    return "–" if gain is None else str(gain)
