"""What the numbers say to the aim: M²PT above every method as small as it, and close to full fine-tuning."""

from collections.abc import Iterator

from training.report.m2pt.config import Method
from training.report.m2pt.results import Results
from training.statistics import Gain

__all__ = ["MARGIN", "verdict"]

MARGIN = 0.03
"""Points (as a share of one) that M²PT may stay behind full fine-tuning."""


def verdict(results: Results) -> str:
    """Markdown: the aim, whether it is reached, and each comparison; '' without M²PT among the methods."""
    if "m2pt" not in results.config.methods:
        return ""
    parts = [
        f"Aim, on average over the {len(results.config.unseen)} unseen tasks: M²PT above every method with "
        f"at most its number of trained values, and within {100 * MARGIN:g} points of full fine-tuning.",
        f"**{_small(results)} {_full(results)}**",
        "\n".join(_lines(results)),
    ]
    return "\n\n".join(parts)


def _gain(results: Results, over: Method) -> Gain:
    return results.gain("m2pt", over, list(results.config.unseen))


def _rivals(results: Results) -> list[Method]:
    """The methods with at most M²PT's number of trained values."""
    most = results.values("m2pt")
    others = [method for method in results.config.methods if method != "m2pt"]
    return [method for method in others if results.values(method) <= most]


def _small(results: Results) -> str:
    rivals = _rivals(results)
    if not rivals:
        return "No method measured here is as small as M²PT."
    above = [method for method in rivals if _gain(results, method).mean > 0]
    if len(above) == len(rivals):
        doubted = [method for method in rivals if _gain(results, method).low <= 0]
        if not doubted:
            return "M²PT is above every method of its size or less, and the intervals leave no doubt."
        return (
            "M²PT is above every method of its size or less; the interval of its lead over "
            f"{', '.join(doubted)} holds zero."
        )
    behind = ", ".join(method for method in rivals if method not in above)
    return f"M²PT is not above {behind}: this half of the aim is missed."


def _full(results: Results) -> str:
    if "full" not in results.config.methods:
        return "Full fine-tuning was not measured."
    gain = _gain(results, "full")
    if gain.mean >= 0:
        return f"It is not behind full fine-tuning ({gain})."
    if gain.mean >= -MARGIN:
        sure = "" if gain.low >= -MARGIN else ", though the interval reaches further"
        return f"It is within {100 * MARGIN:g} points of full fine-tuning ({gain}){sure}."
    return f"It is more than {100 * MARGIN:g} points behind full fine-tuning ({gain}): this half is missed."


def _lines(results: Results) -> Iterator[str]:
    rivals = _rivals(results)
    for method in results.config.methods:
        if method != "m2pt":
            size = "at most as many values" if method in rivals else "more values"
            yield f"- M²PT over {method} ({results.values(method):,}, {size}): {_gain(results, method)}"
