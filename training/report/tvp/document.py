"""Puts a report together: Markdown with its tables and pictures in one folder."""

from pathlib import Path

import numpy as np
from PIL import Image

from prompts.frame import preview
from training.report.tvp import figures, tables
from training.report.tvp.config import METHODS, Method, ReportConfig
from training.report.tvp.results import Results

__all__ = ["write_report"]

REPORT_FILE = "report.md"
_AGREEMENT = (
    "Cohen's κ, the mean over frames (lowest to highest): 0 where answers drawn blindly in the same "
    "proportions would be right as often, below it where they would be right more often, 1 where every "
    "answer is right. A gain in accuracy that leaves κ at 0 is a bias taken away, not a question understood."
)


def write_report(results: Results) -> Path:
    """Writes `report.md` and its pictures under the config's `out`; returns the file."""
    config = results.config
    config.out.mkdir(parents=True, exist_ok=True)
    parts = [f"# {config.title}", _method(results), "## At a glance", tables.summary(results)]
    parts += ["## Without a prompt", tables.base_accuracy(results)]
    parts += ["## Beyond blind answers", _AGREEMENT, tables.agreement(results)]
    parts += ["## From each model to each", *_transfer(results)]
    if config.ablation is not None:
        parts += ["## What each part is worth", tables.ablation(results)]
    hallucination = tables.hallucination(results)
    if hallucination:
        parts += ["## Hallucination", hallucination]
    parts += ["## The frames", _frames(results)]
    parts += _studies(results)
    parts += ["## Cost", tables.cost(results)]
    if config.notes is not None:
        parts.append(config.notes.read_text(encoding="utf-8").strip())
    file = config.out / REPORT_FILE
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return file


def _method(results: Results) -> str:
    config, recipe = results.config, results.config.recipe
    tasks = "; ".join(f"{name} ({_asked(config, name)})" for name in config.tasks)
    text = (
        f"Frames are trained on {', '.join(config.sources)} and measured, unchanged, on "
        f"{', '.join(config.models)}: a model that a frame has had no gradient of is a black box to it. "
        f"{len(config.seeds)} seed(s); {recipe.steps} steps of batch {recipe.batch}, lr {recipe.lr:g}, "
        f"λ₁ = {recipe.lambda_fca:g}, λ₂ = {recipe.lambda_tse:g}, value range {recipe.frame.value_range}. "
        f"Tasks, on held-out pictures: {tasks}. Gains are in points of accuracy over the same model "
        "without a prompt, on the same pictures, with bootstrap 95 % intervals over seeds and pictures; "
        "where there is one seed (the studies below, unless told otherwise) they speak of its pictures alone."
    )
    unnamed = [name for name, task in config.tasks.items() if not task.named]
    if unnamed and recipe.judge:
        text += f" Answers of {', '.join(unnamed)} name nothing that a judge could see: λ₂ = 0 there."
    if results.seen_by_judge:
        names = ", ".join(sorted(results.seen_by_judge))
        text += (
            f" The judge of task semantics enrichment has the tower of {names}: no black box to a frame "
            "trained with it."
        )
    return text


def _asked(config: ReportConfig, task: str) -> str:
    told = config.tasks[task]
    return told.how + (", shifted: unlike what the models learned" if told.shifted else "")


def _transfer(results: Results) -> list[str]:
    config, parts = results.config, []
    method: Method = "tvp" if "tvp" in config.methods else config.methods[0]
    grid = []
    for source in config.sources:
        row = []
        for target in config.models:
            gain = results.gain_on(results.frames(method, source=source), target)
            row.append(float("nan") if gain is None else 100 * gain.mean)
        grid.append(row)
    title = f"{method}: gain over no prompt, mean over tasks"
    own = [(row, list(config.models).index(source)) for row, source in enumerate(config.sources)]
    figures.heat_map(grid, config.sources, list(config.models), title, config.out / "transfer.png", own=own)
    parts.append(f"![{title}](transfer.png)")
    parts.append(
        "Framed in the picture, in italics in the tables: models that the frames have had a gradient of; all "
        "others are black boxes."
    )
    for task in config.tasks:
        for method in config.methods:
            parts += [f"### {task}, {method}", tables.transfer(results, method, task)]
    return parts


def _frames(results: Results) -> str:
    """The first seed's frame of each source (down) and method (across), on the first task."""
    task, pictures = next(iter(results.config.tasks)), dict[tuple[str, str], Image.Image]()
    methods = [method for method in METHODS if results.frames(method, task=task)]
    for method in methods:
        for source in results.config.sources:
            jobs = results.frames(method, source=source, task=task)
            if jobs:
                pictures[source, method] = preview(results.trained[jobs[0]].bundle)
    sources = results.config.sources
    figures.frames_sheet(pictures, sources, methods, results.config.out / "frames.png")
    return (
        f"![Learned frames, by source and method, for {task}](frames.png)\n\n"
        "Each method's first seed, clipped to [0, 1] to be shown; blank where a method was not trained."
    )


def _studies(results: Results) -> list[str]:
    config, parts = results.config, []
    if config.scale is not None:
        _draw_scale(results)
        parts += [
            "## How much data",
            f"TVP for {config.scale.task}, trained on {config.scale.source}: gain over no prompt.",
            "![Gain over the share of the data](scale.png)",
            tables.scale(results),
        ]
    if config.corruption is not None:
        _draw_corruption(results)
        parts += [
            "## Under common corruptions",
            f"Accuracy of {config.corruption.source} on corrupted test pictures of {config.corruption.task}, "
            "the mean over severities (the frame itself is never corrupted: it is put on by the server).",
            "![Accuracy over severity](corruption.png)",
            tables.corruption(results),
        ]
    return parts


def _draw_scale(results: Results) -> None:
    study = results.config.scale
    assert study is not None
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in results.config.models:
        points = lines.setdefault(f"{name} (source)" if name == study.source else name, [])
        for share in study.shares:
            gain = results.gain_on([job for job in results.trained if job.share == share], name)
            if gain is not None:
                points.append((100 * share, 100 * gain.mean))
    figures.curve(
        lines,
        x="share of the training examples, %",
        y="gain over no prompt, points",
        title=f"TVP for {study.task}, trained on {study.source}",
        file=results.config.out / "scale.png",
        log=True,
        ticks=[(100 * share, f"{100 * share:g}") for share in study.shares],
    )


def _draw_corruption(results: Results) -> None:
    study = results.config.corruption
    assert study is not None
    lines: dict[str, list[tuple[float, float]]] = {}
    for frame in dict.fromkeys(frame for frame, _ in results.marred):
        points = []
        for severity in (0, *study.severities):
            right = [
                found.right.mean()
                for (which, one), found in results.marred.items()
                if which == frame and (one.severity if one else 0) == severity
            ]
            points.append((float(severity), 100 * float(np.mean(right))))
        lines[frame.method if frame else "no prompt"] = points
    figures.curve(
        lines,
        x="severity",
        y="accuracy, %",
        title=f"{study.task} on {study.source}, mean over corruptions",
        file=results.config.out / "corruption.png",
        ticks=[(severity, str(severity)) for severity in (0, *study.severities)],
    )
