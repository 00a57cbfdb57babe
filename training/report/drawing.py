"""What the reports' pictures share: a canvas that needs no display, and its resolution."""

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["DPI", "new_figure"]

DPI = 130


def new_figure(width: float, height: float, shape: tuple[int, int] | None = None) -> tuple[Figure, Any]:
    """A figure of so many inches and its axes: one, or an array (rows, columns) of them."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if shape is None:
        return figure, figure.subplots()
    return figure, figure.subplots(*shape, squeeze=False)
