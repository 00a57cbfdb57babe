"""A report's tables, as Markdown."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from training.report.answers import Answers
from training.report.markdown import MEGABYTE, table
from training.report.tvp.config import METHODS, Method
from training.report.tvp.plan import FrameJob
from training.report.tvp.results import Results, Targets
from training.statistics import Gain, mean_gain, score, yes_no

__all__ = [
    "ablation",
    "agreement",
    "base_accuracy",
    "corruption",
    "cost",
    "hallucination",
    "scale",
    "summary",
    "transfer",
]


_WITHOUT_A_JUDGE: dict[Method, Method] = {"tvp-without-fca": "evp", "tvp-without-tse": "tvp"}
"""What a method is at a task that names nothing, where λ₂ = 0."""


def summary(results: Results) -> str:
    """Each method of the whole grid: its gain over no prompt on its source and on black boxes."""
    black = results.shared_black_boxes(_grid(results))
    rows = []
    for method in results.config.methods:
        jobs = results.frames(method)
        shifted = [job for job in jobs if results.config.tasks[job.task].shifted]
        rows.append(
            [
                f"**{method}**: {METHODS[method]}",
                _said(results.mean_gain(jobs, _own)),
                _said(results.mean_gain(shifted, _own)),
                _said(results.mean_gain(jobs, black)),
            ]
        )
    text = table(["method", "on its source", "on its source, shifted tasks", "on black-box models"], rows)
    if {"tvp", "evp"} <= set(results.config.methods):
        over = results.mean_gain(results.frames("tvp"), black, over="evp")
        text += f"\n\nTVP over EVP on black-box models, paired by source, task and seed: {_said(over)}."
    return text


def _grid(results: Results) -> list[FrameJob]:
    return [job for method in results.config.methods for job in results.frames(method)]


def _own(job: FrameJob) -> tuple[str, ...]:
    return job.sources[:1]


def agreement(results: Results) -> str:
    """Cohen's κ of each method of the grid by task, the mean over frames with the lowest and the highest."""
    grid = _grid(results)
    black = results.shared_black_boxes(grid)
    heading, columns = ["method"], list[tuple[str, Targets]]()
    for task in results.config.tasks:
        heading += [f"{task}: on its source", f"{task}: on black boxes"]
        columns += [(task, _own), (task, black)]
    row = ["none"]
    for task, targets in columns:
        jobs = [job for job in grid if job.task == task]
        row.append(_kappas([results.base[place, task] for job in jobs for place in targets(job)]))
    rows = [row]
    for method in results.config.methods:
        row = [method]
        for task, targets in columns:
            jobs = results.frames(method, task=task)
            row.append(_kappas([results.framed[job, place] for job in jobs for place in targets(job)]))
        rows.append(row)
    return table(heading, rows)


def _kappas(answers: Sequence[Answers]) -> str:
    if not answers:
        return "–"
    kappas = [one.kappa for one in answers]
    return f"{np.mean(kappas):+.2f} ({min(kappas):+.2f} to {max(kappas):+.2f})"


def base_accuracy(results: Results) -> str:
    """Every model on every task without a prompt."""
    tasks = results.config.tasks
    rows = [
        [name, *(str(score(list(results.base[name, task].right > 0))) for task in tasks)]
        for name in results.config.models
    ]
    first = next(iter(results.config.models))
    counts = ["n", *(str(len(results.base[first, task].wanted)) for task in tasks)]
    return table(["model", *tasks], [*rows, counts])


def transfer(results: Results, method: Method, task: str) -> str:
    """Sources down, targets across: the gain over no prompt, the mean over seeds."""
    rows = []
    for source in results.config.sources:
        jobs = results.frames(method, source=source, task=task)
        cells = [_cell(results, jobs, target) if jobs else "–" for target in results.config.models]
        black = results.mean_gain(jobs, results.black_boxes)
        rows.append([f"trained on {source}", *cells, _said(black)])
    return table(["", *results.config.models, "mean over black boxes"], rows)


def _cell(results: Results, jobs: Sequence[FrameJob], target: str) -> str:
    gain = results.gain_on(jobs, target)
    if gain is None:
        return "–"
    mean, low, high = (round(100 * share) for share in (gain.mean, gain.low, gain.high))
    text = f"{mean:+d} [{low:+d} to {high:+d}]"
    return text if target in results.black_boxes(jobs[0]) else f"*{text}*"


def ablation(results: Results) -> str:
    """All methods on what the ablation was made on, task by task: the same sources, seeds and black boxes."""
    study = results.config.ablation
    assert study is not None
    measured = [
        job
        for job in results.trained
        if job.share is None and job.sources[0] in study.sources and job.seed in study.seeds
    ]
    black = results.shared_black_boxes(measured)
    told = f"{len(study.seeds)} seed(s). Black boxes are here those that every method has: "
    boxes = dict.fromkeys(f"from {job.sources[0]} {', '.join(black(job)) or 'none'}" for job in measured)
    heading = ["method"]
    for task in results.config.tasks:
        heading += [f"{task}: on its first source", f"{task}: on black boxes"]
    rows = []
    asked = {job.method for job in measured}
    for method in (one for one in METHODS if one in asked):
        row = [f"**{method}**: {METHODS[method]}"]
        for task, config in results.config.tasks.items():
            jobs = [job for job in measured if (job.method, job.task) == (method, task)]
            if method in _WITHOUT_A_JUDGE and not config.named:
                row += [f"as {_WITHOUT_A_JUDGE[method]}"] * 2
            else:
                row += [_said(results.mean_gain(jobs, _own)), _said(results.mean_gain(jobs, black))]
        rows.append(row)
    return f"{told}{'; '.join(boxes)}.\n\n{table(heading, rows)}"


def hallucination(results: Results) -> str:
    """POPE's measures of every yes/no task: without a prompt, and the mean over frames from other models."""
    rows = []
    for task in results.config.tasks:
        for target in results.config.models:
            base = results.base[target, task]
            if base.is_yes_no:
                rows += [[f"{task} on {target}", *line] for line in _yes_no_lines(results, task, target)]
    heading = ["task", "prompt", "n", "accuracy", "precision", "recall", "F1", "yes-ratio", "unclear"]
    return table(heading, rows) if rows else ""


def _yes_no_lines(results: Results, task: str, target: str) -> Iterator[list[str]]:
    yield ["none", *_yes_no_figures([results.base[target, task]])]
    for method in results.config.methods:
        jobs = [job for job in results.frames(method, task=task) if target in results.black_boxes(job)]
        if jobs:
            yield [method, *_yes_no_figures([results.framed[job, target] for job in jobs])]


def _yes_no_figures(answers: Sequence[Answers]) -> list[str]:
    """n, percentages and unclear answers, the mean over several measurements; accuracy with its interval."""
    measured = [yes_no(one.wanted, one.said) for one in answers]
    right = mean_gain([np.stack([one.right for one in answers])])
    fields = ("precision", "recall", "f1", "yes_ratio")
    means = [100 * float(np.mean([getattr(one, name) for one in measured])) for name in fields]
    unclear = float(np.mean([one.unclear for one in measured]))
    accuracy = f"{100 * right.mean:.0f} [{100 * right.low:.0f}–{100 * right.high:.0f}]"
    return [str(measured[0].n), accuracy, *(f"{mean:.0f}" for mean in means), f"{unclear:g}"]


def scale(results: Results) -> str:
    """TVP's gain over no prompt on every model, over the share of the training examples."""
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
    """Accuracy on corrupted pictures, the mean over severities, and the frames' gains over no prompt."""
    frames = [frame for frame in dict.fromkeys(frame for frame, _ in results.marred) if frame is not None]
    rows = []
    for kind in dict.fromkeys(one.kind if one else "none" for _, one in results.marred):
        base = _right_under(results, None, kind)
        row = [kind, str(base.shape[1]), f"{100 * base.mean():.0f} %"]
        for frame in frames:
            right = _right_under(results, frame, kind)
            row += [f"{100 * right.mean():.0f} %", str(mean_gain([(right - base)[None]]))]
        rows.append(row)
    heading = ["corruption", "n", "no prompt"]
    for frame in frames:
        heading += [frame.method, f"gain of {frame.method}"]
    return table(heading, rows)


def _right_under(results: Results, frame: FrameJob | None, kind: str) -> NDArray[np.float64]:
    """(severities, n) 1 where the answer is right."""
    return np.stack(
        [
            found.right
            for (which, one), found in results.marred.items()
            if which == frame and (one.kind if one else "none") == kind
        ]
    )


def cost(results: Results) -> str:
    """Seconds and memory of each method's trainings on all of the data."""
    rows = []
    for method in METHODS:
        jobs = [job for job in results.trained if job.method == method and job.share is None]
        costs = [cost for job in jobs if (cost := results.trained[job].cost) is not None]
        if costs:
            seconds = float(np.median([one.seconds for one in costs]))
            peak = max(one.peak_bytes for one in costs) / MEGABYTE
            rows.append([method, f"{len(costs)} of {len(jobs)}", f"{seconds:.0f}", f"{peak:,.0f}"])
    return table(["method", "frames timed", "seconds each (median)", "peak memory, MB"], rows)


def _said(gain: Gain | None) -> str:
    return "–" if gain is None else str(gain)
