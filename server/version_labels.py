"""Which versions of a task have a label of their own in the metrics: few at a time, whatever is deployed.

A version is known by the first digits of its digest. Each has series of its own, so that the two sides of a
split can be compared. Where a task has had too many, of those that serve no more the one that was asked for
longest ago is forgotten.
"""

from collections.abc import Callable, Iterable, Mapping

__all__ = ["MOST_VERSIONS", "NO_VERSION", "OTHER_VERSION", "VersionLabels"]

MOST_VERSIONS = 8
"""Of one task at a time."""
NO_VERSION = ""
OTHER_VERSION = "_unknown"
_DIGITS = 12


class VersionLabels:
    """The label values of each task's versions.

    `forget`: drops the series of a task's version; None where series cannot be dropped (several processes
    behind one `/metrics`): then a task's first `MOST_VERSIONS` have labels for the life of the process.
    """

    def __init__(self, forget: Callable[[str, str], None] | None) -> None:
        self._forget = forget
        self._known: dict[str, dict[str, None]] = {}
        """Task -> labels, the one asked for longest ago first."""
        self._serving: dict[str, set[str]] = {}

    def serve(self, served: Mapping[str, Iterable[str]]) -> None:
        """Learn what serves now, task -> digests: those are not forgotten."""
        self._serving = {task: {digest[:_DIGITS] for digest in digests} for task, digests in served.items()}

    def label(self, task: str, digest: str | None) -> str:
        """The label of that version of a registered task, `NO_VERSION` for none.

        `OTHER_VERSION` where the task has too many already, and none of them can be forgotten.
        """
        if digest is None:
            return NO_VERSION
        label = digest[:_DIGITS]
        known = self._known.setdefault(task, {})
        if label not in known and len(known) >= MOST_VERSIONS and not self._make_room(task, known):
            return OTHER_VERSION
        known.pop(label, None)
        known[label] = None
        return label

    def _make_room(self, task: str, known: dict[str, None]) -> bool:
        idle = next((one for one in known if one not in self._serving.get(task, ())), None)
        if idle is None or self._forget is None:
            return False
        del known[idle]
        self._forget(task, idle)
        return True
