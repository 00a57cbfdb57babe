"""What the reports' pictures share: a canvas that needs no display, and its resolution."""

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["DPI", "empty_figure", "new_figure"]

DPI = 130


def empty_figure(width: float, height: float) -> Any:
    """A figure of so many inches, without axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float, shape: tuple[int, int] | None = None) -> tuple[Figure, Any]:
    """A figure of so many inches and its axes: one, or an array (rows, columns) of them."""
    figure = empty_figure(width, height)
    if shape is None:
        return figure, figure.subplots()
    return figure, figure.subplots(*shape, squeeze=False)
