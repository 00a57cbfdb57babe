"""Tables as Markdown."""

from collections.abc import Iterable, Sequence

__all__ = ["MEGABYTE", "table"]

MEGABYTE = 1e6


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
