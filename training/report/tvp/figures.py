"""A report's pictures: frames, a heat map of gains, curves over data and corruptions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from training.report.drawing import DPI, new_figure

__all__ = ["curve", "frames_sheet", "heat_map"]


def heat_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    file: Path,
    *,
    own: Sequence[tuple[int, int]] = (),
) -> None:
    """Gains in points, (sources, targets), warm above none and cold below it; NaN stays blank.

    Args:
        own: cells (row, column) to put a frame around.
    """
    grid = np.asarray(values, dtype=float)
    limit = max(1.0, float(np.nanmax(np.abs(grid))))
    figure, axes = new_figure(1.6 + 1.2 * len(columns), 1.4 + 0.6 * len(rows))
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="measured on", ylabel="trained on", title=title)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            shade = "white" if abs(value) > 0.6 * limit else "black"
            axes.text(column, row, f"{round(value):+d}", ha="center", va="center", color=shade)
    for row, column in own:
        axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, linewidth=2))
    figure.colorbar(image, label="gain in points")
    figure.savefig(file, dpi=DPI)


def curve(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    title: str,
    file: Path,
    log: bool = False,
    ticks: Sequence[tuple[float, str]] = (),
) -> None:
    """Lines of (x, y) points by name; x on a log scale where told."""
    figure, axes = new_figure(7.0, 4.0)
    for name, points in lines.items():
        axes.plot([a for a, _ in points], [b for _, b in points], marker="o", label=name)
    if log:
        axes.set_xscale("log")
    if ticks:
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], rotation=30, ha="right")
        axes.minorticks_off()
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=DPI)


def frames_sheet(
    pictures: Mapping[tuple[str, str], Image.Image], rows: Sequence[str], columns: Sequence[str], file: Path
) -> None:
    """Frames as pictures, by (row, column); absent ones stay blank."""
    figure, grid = new_figure(
        1.0 + 1.9 * len(columns), 0.6 + 1.9 * len(rows), shape=(len(rows), len(columns))
    )
    for row, line in zip(rows, grid, strict=True):
        for column, axes in zip(columns, line, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if (row, column) in pictures:
                axes.imshow(pictures[row, column])
            else:
                axes.set_frame_on(False)
                axes.set_box_aspect(1)
            if row == rows[0]:
                axes.set_title(column, fontsize=9)
            if column == columns[0]:
                axes.set_ylabel(row, fontsize=9)
    figure.savefig(file, dpi=DPI)
