"""The report's tables, as Markdown."""

from collections.abc import Sequence

import numpy as np

from training.report.m2pt.attention import Look
from training.report.m2pt.config import METHODS, Method
from training.report.m2pt.results import Results
from training.report.markdown import MEGABYTE, table
from training.statistics import Score

__all__ = ["comparison", "cost_of", "lengths", "looks", "methods", "seen"]


def comparison(results: Results) -> str:
    """Every method: what it learns, how it answers unseen tasks, what it costs."""
    unseen, known = list(results.config.unseen), list(results.config.seen)
    rows = []
    for method in results.config.methods:
        per_task = [_cell(results.score(method, [task])) for task in unseen]
        averages = [f"**{_cell(results.score(method, unseen))}**", _cell(results.score(method, known))]
        rows.append(
            [f"**{method}**", *_learned(results, method), *per_task, *averages, *cost_of(results, method)]
        )
    if results.guessing:
        blind = [*(results.guessing[task] for task in unseen), *map(results.guess, (unseen, known))]
        rows.append(["guessing", "–", "–", *map(_share, blind), "–", "–"])
    heading = ["method", "trained values", "bytes on disk", *unseen, "unseen, average", "seen, average"]
    return table([*heading, "seconds", "peak memory, MB"], rows)


def seen(results: Results) -> str:
    """Every method on the tasks it was trained on, on held-out pictures."""
    tasks = list(results.config.seen)
    rows = [
        [f"**{method}**", *(_cell(results.score(method, [task])) for task in tasks)]
        for method in results.config.methods
    ]
    if results.guessing:
        rows.append(["guessing", *(_share(results.guessing[task]) for task in tasks)])
    return table(["method", *tasks], rows)


def methods(results: Results) -> str:
    """What each method is, and how fast it learns."""
    rows = []
    for method in results.config.methods:
        rate = results.config.rates.get(method)
        own = {} if rate is None else rate.model_dump(exclude_none=True)
        told = ", ".join(f"{name} {value:g}" for name, value in own.items()) if method != "none" else "–"
        rows.append([f"**{method}**: {METHODS[method]}", told])
    return table(["method", "learning rate"], rows)


def lengths(results: Results) -> str:
    """Accuracy on unseen tasks, text rows down and vision rows across."""
    study = results.config.lengths
    assert study is not None
    unseen = list(results.config.unseen)
    rows = [
        [
            f"{text} text rows",
            *(_cell(results.score("m2pt", unseen, (text, vision))) for vision in study.vision),
        ]
        for text in study.text
    ]
    return table(["", *(f"{vision} vision rows" for vision in study.vision)], rows)


def looks(found: Sequence[Look]) -> str:
    """What each kind of row has of a layer's attention, the mean over the pictures looked at."""
    shares = np.mean([look.shares for look in found], axis=0)
    rows = [
        [f"layer {layer + 1}", *(f"{100 * share:.1f} %" for share in line)]
        for layer, line in zip(found[0].layers, shares, strict=True)
    ]
    return table(["", "text rows", "vision rows and class row", "patches", "question"], rows)


def cost_of(results: Results, method: Method) -> Sequence[str]:
    """Seconds (the shortest and the longest training) and the most memory; – where nothing was timed."""
    costs = [cost for job in results.jobs(method) if (cost := results.tuned[job].cost) is not None]
    if not costs:
        return "–", "–"
    least, most = (round(of(one.seconds for one in costs)) for of in (min, max))
    seconds = f"{least}" if least == most else f"{least}–{most}"
    return seconds, f"{max(one.peak_bytes for one in costs) / MEGABYTE:,.0f}"


def _learned(results: Results, method: Method) -> Sequence[str]:
    sizes = [results.tuned[job].size for job in results.jobs(method)]
    return f"{results.values(method):,}", f"{max(sizes, default=0):,}"


def _share(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"


def _cell(score: Score) -> str:
    return f"{_share(score.accuracy)} [{100 * score.low:.0f}–{100 * score.high:.0f}]"
