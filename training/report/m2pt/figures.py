"""The report's pictures: components, accuracy over size and lengths, where the answer looks from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.report.drawing import DPI, empty_figure, new_figure
from training.report.m2pt.attention import Look
from training.statistics import Score

__all__ = ["attention", "bars", "length_map", "over_values"]

_COLOURS = {"unseen": "tab:blue", "seen": "tab:gray"}
_TITLE, _SMALL = 10, 7
_SPAN = 20
"""Points of accuracy that a map's colours span at least, so that noise looks like what it is."""


def bars(
    scores: Mapping[str, Mapping[str, Score]], file: Path, guessing: Mapping[str, float] | None = None
) -> None:
    """Accuracy of each method on unseen and seen tasks, with intervals.

    Args:
        scores: kind -> method -> score.
        guessing: kind -> accuracy of choices drawn blindly, a dotted line.
    """
    figure, axes = new_figure(7.5, 4.0)
    for number, (kind, found) in enumerate(scores.items()):
        places = np.arange(len(found)) + 0.4 * number - 0.2
        heights, errors = _points(list(found.values()))
        axes.bar(places, heights, 0.36, yerr=errors, capsize=3, label=f"{kind} tasks", color=_COLOURS[kind])
        axes.set_xticks(np.arange(len(found)), list(found))
    for kind, accuracy in (guessing or {}).items():
        axes.axhline(100 * accuracy, linestyle=":", color=_COLOURS[kind], label=f"guessing, {kind}")
    axes.set(ylabel="accuracy, %", ylim=(0, 100), title="What each part of M²PT is worth")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=DPI)


def over_values(
    points: Mapping[str, tuple[int, Score]], file: Path, levels: Mapping[str, float] | None = None
) -> None:
    """Accuracy on unseen tasks over the number of trained values, a point with its interval a method.

    Args:
        levels: what a dotted line is drawn for -> its accuracy.
    """
    figure, axes = new_figure(9.0, 4.6)
    ordered = sorted(points.items(), key=lambda point: point[1][0])
    for number, (name, (values, score)) in enumerate(ordered):
        heights, errors = _points([score])
        colour = "tab:red" if name == "m2pt" else "tab:blue"
        axes.errorbar([values], heights, yerr=errors, fmt="o", capsize=3, color=colour)
        end, lift = ((100 * score.high, 4), (100 * score.low, -11))[number % 2]  # neighbours' names apart
        place = {"xytext": (0, lift), "textcoords": "offset points", "ha": "center"}
        axes.annotate(name, (values, end), fontsize=8, color=colour, **place)
    for number, (name, accuracy) in enumerate((levels or {}).items()):
        axes.axhline(100 * accuracy, linestyle=":", color=("black", "gray")[number % 2], label=name)
    if levels:
        axes.legend(loc="best", fontsize=8)
    axes.set_xscale("log")
    axes.set(xlabel="trained values", ylabel="accuracy, %", title="Unseen tasks, over what was trained")
    axes.margins(x=0.1, y=0.12)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=DPI)


def length_map(
    values: Sequence[Sequence[float]], text: Sequence[int], vision: Sequence[int], file: Path
) -> None:
    """Accuracy (shares of one) over P_t, down, and P_v, across; the colours span `_SPAN` points at least."""
    grid = 100 * np.asarray(values, dtype=float)
    middle, half = (grid.min() + grid.max()) / 2, max(_SPAN, np.ptp(grid)) / 2
    figure, axes = new_figure(2.6 + 1.1 * len(vision), 1.6 + 0.7 * len(text))
    image = axes.imshow(grid, cmap="viridis", aspect="auto", vmin=middle - half, vmax=middle + half)
    axes.set_xticks(range(len(vision)), [str(length) for length in vision])
    axes.set_yticks(range(len(text)), [str(length) for length in text])
    axes.set(xlabel="vision rows P_v", ylabel="text rows P_t", title="Accuracy on unseen tasks, %")
    for (row, column), value in np.ndenumerate(grid):
        shade = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=shade)
    figure.colorbar(image)
    figure.savefig(file, dpi=DPI)


def attention(look: Look, title: str, file: Path) -> None:
    """The picture, each layer's attention laid over it, and beneath it the learned rows and the question."""
    count = len(look.layers)
    figure = empty_figure(2.4 * (count + 1), 5.2)
    over, under = figure.subfigures(2, 1, height_ratios=[1.35, 1.0])
    figure.suptitle(title, fontsize=_TITLE)
    panels = over.subplots(1, count + 1)
    panels[0].imshow(look.seen)
    panels[0].set_title("the picture", fontsize=_TITLE)
    for axes, layer, patches, shares in zip(panels[1:], look.layers, look.patches, look.shares, strict=True):
        _lay_over(axes, look.seen, patches)
        axes.set_title(f"layer {layer + 1}: {100 * shares[2]:.0f} % on it", fontsize=_TITLE)
    for axes in panels:
        axes.axis("off")
    learned = np.concatenate([look.text, look.vision], axis=1)
    widths = [max(6, learned.shape[1]), max(6, len(look.tokens))]
    left, right = under.subplots(1, 2, width_ratios=widths)
    marks = [f"t{place + 1}" for place in range(look.text.shape[1])]
    marks += [f"v{place + 1}" for place in range(look.vision.shape[1])]
    share = look.shares[:, :2].sum(1).mean()
    _strip(under, left, learned, marks, look.layers, f"learned rows: {100 * share:.0f} % on average")
    share = look.shares[:, 3].mean()
    _strip(under, right, look.question, look.tokens, look.layers, f"the question: {100 * share:.0f} %")
    figure.savefig(file, dpi=DPI)


def _lay_over(axes: Any, seen: Image.Image, patches: NDArray[np.float64]) -> None:
    """The picture in grey, brighter colours where the layer looks; scaled to the layer's strongest patch."""
    axes.imshow(seen.convert("L"), cmap="gray", vmin=-120, vmax=255)
    width, height = seen.size
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(patches, cmap="inferno", alpha=0.6, extent=extent, interpolation="nearest", vmin=0)


def _strip(
    figure: Any,
    axes: Any,
    weights: NDArray[np.float64],
    names: Sequence[str],
    layers: Sequence[int],
    title: str,
) -> None:
    """Weights (K, rows) as a heat map, in % of the layer's attention."""
    image = axes.imshow(100 * weights, cmap="inferno", aspect="auto", vmin=0, interpolation="nearest")
    shown = [name.replace("\n", "↵").replace("$", r"\$") for name in names]
    axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=_SMALL)
    axes.set_yticks(range(len(layers)), [str(layer + 1) for layer in layers], fontsize=_SMALL)
    axes.set_ylabel("layer", fontsize=_SMALL)
    axes.set_title(title, fontsize=_TITLE)
    figure.colorbar(image, ax=axes, format="%g %%").ax.tick_params(labelsize=_SMALL)


def _points(scores: Sequence[Score]) -> tuple[list[float], list[list[float]]]:
    """Accuracies in %, and how far the intervals reach below and above them, two lists."""
    heights = [100 * score.accuracy for score in scores]
    below = [max(0.0, height - 100 * score.low) for height, score in zip(heights, scores, strict=True)]
    above = [max(0.0, 100 * score.high - height) for height, score in zip(heights, scores, strict=True)]
    return heights, [below, above]
