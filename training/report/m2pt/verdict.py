"""What the numbers say to the aim: M²PT above every method as small as it, and close to full fine-tuning."""

from collections.abc import Sequence

from training.report.m2pt.config import Method
from training.report.m2pt.results import Results
from training.report.markdown import table
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
        f"**{' '.join(said for said in (_untuned(results), _small(results), _full(results)) if said)}**",
        _table(results),
    ]
    return "\n\n".join(parts)


def _gain(results: Results, over: Method, tasks: Sequence[str] | None = None) -> Gain:
    return results.gain("m2pt", over, list(results.config.unseen if tasks is None else tasks))


def _others(results: Results) -> list[Method]:
    return [method for method in results.config.methods if method != "m2pt"]


def _rivals(results: Results) -> list[Method]:
    """The methods with at most M²PT's number of trained values, the model as it is among them."""
    most = results.values("m2pt")
    return [method for method in _others(results) if results.values(method) <= most]


def _untuned(results: Results) -> str:
    """Whether M²PT is worth anything here."""
    if "none" not in results.config.methods:
        return ""
    gain = _gain(results, "none")
    if gain.low > 0:
        return f"M²PT gains over the model as it is ({gain})."
    if gain.high < 0:
        return f"M²PT takes away from the model as it is ({gain})."
    return f"That M²PT gains over the model as it is, is not shown ({gain})."


def _small(results: Results) -> str:
    gains = {method: _gain(results, method) for method in _rivals(results)}
    if not gains:
        return "No method measured here is as small as M²PT."
    behind = [method for method, gain in gains.items() if gain.mean <= 0]
    doubted = [method for method, gain in gains.items() if gain.low <= 0]
    if behind:
        sure = [method for method in behind if gains[method].high < 0]
        how_sure = f"(surely below {', '.join(sure)})" if sure else "(the intervals decide none of this)"
        return f"It is not above {', '.join(behind)} {how_sure}: this half of the aim is missed."
    if doubted:
        return (
            "It is above every method of its size or less; the interval of its lead over "
            f"{', '.join(doubted)} holds zero."
        )
    return "It is above every method of its size or less, and the intervals leave no doubt."


def _full(results: Results) -> str:
    if "full" not in results.config.methods:
        return "Full fine-tuning was not measured."
    gain, margin = _gain(results, "full"), f"{100 * MARGIN:g} points of full fine-tuning"
    if gain.low >= -MARGIN:
        return f"It is within {margin}, and the interval leaves no doubt ({gain})."
    if gain.mean >= -MARGIN:
        return f"On average it is within {margin}, but the interval reaches further ({gain})."
    sure = "" if gain.high < -MARGIN else ", though the interval does not exclude it"
    return f"It is not within {margin} ({gain}){sure}: this half of the aim is missed."


def _table(results: Results) -> str:
    rivals, seen = _rivals(results), list(results.config.seen)
    rows = [
        [
            method,
            f"{results.values(method):,}",
            "yes" if method in rivals else "no",
            str(_gain(results, method)),
            str(_gain(results, method, seen)),
        ]
        for method in _others(results)
    ]
    return table(["M²PT over", "trained values", "of its size or less", "unseen", "seen"], rows)
