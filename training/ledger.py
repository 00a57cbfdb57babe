"""What a training run found broken: pictures and streamed records, counted and named; too many are fatal.

Records that were found broken when the data was opened are counted in (`training.data.broken`). What is
known of a run depends on its config and data alone, never on how far a thread has read ahead: each find
is kept with the forward pass it was made for, and whoever asks says up to which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from prompts.errors import ConfigError
from training.data.broken import broken_fault

__all__ = ["Broken", "Ledger"]

_LEAST_SEEN = 1000
"""Examples of which a share says something: until so many are seen they count as seen."""
_NAMED = 20


@dataclass(frozen=True)
class Broken:
    """One example that was skipped.

    Attributes:
        place: in the source; of a stream, its number in the order read.
        reason: with the name of its file or record.
        number: the forward pass it was read for.
    """

    place: int
    reason: str
    number: int


class Ledger:
    """Finds of a run, each place once.

    It fails where more than `max_share` of what was seen is broken. Of a source with fewer than 1000
    examples all count as seen from the first on, of a larger one or a stream 1000: one broken picture among
    the first ten is no share yet.

    Args:
        size: of the source; None: of a stream, which nobody knows.
        records: the faults of the records that were left out before; their share is part of `max_share`.
        all_records: records there were with them.
    """

    def __init__(
        self, *, max_share: float, size: int | None, records: Sequence[str] = (), all_records: int = 0
    ) -> None:
        self._max_share, self._size = max_share, size
        self._records, self._all_records = tuple(records), all_records
        self._found: dict[int, Broken] = {}

    def knows(self, place: int) -> bool:
        """Whether a place was found broken; it stays so for this run, whatever becomes of its file."""
        return place in self._found

    def note(self, broken: Broken, *, seen: int) -> None:
        """Takes a find down; `seen`: examples looked at so far.

        Raises:
            ConfigError: it is one too many; the first ones are named.
        """
        self._found.setdefault(broken.place, broken)
        seen = max(seen, _LEAST_SEEN)
        seen = seen if self._size is None else min(seen, self._size)
        in_records = len(self._records) / self._all_records if self._records else 0.0
        if len(self._found) <= (self._max_share - in_records) * seen:
            return
        problem = broken_fault("examples", len(self._found), of=seen, max_share=self._max_share)
        if self._records:
            problem += f" (beside {len(self._records)} of {self._all_records} records)"
        raise ConfigError("data", [problem, *(one.reason for one in list(self._found.values())[:_NAMED])])

    def found(self, passes: int) -> list[Broken]:
        """What was found in the forward passes before number `passes`, in the order found."""
        return [one for one in list(self._found.values()) if one.number < passes]

    def state(self, passes: int) -> list[list[Any]]:
        """`found`, for a checkpoint: [place, reason, number] of each."""
        return [[one.place, one.reason, one.number] for one in self.found(passes)]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Takes over what an earlier start found."""
        self._found = {place: Broken(place, reason, number) for place, reason, number in state}

    def summary(self, passes: int) -> Mapping[str, JsonValue]:
        """For people, after so many passes: counts, and the first by name; {} where nothing was broken."""
        found = self.found(passes)
        if not found and not self._records:
            return {}
        reasons = [*self._records[:_NAMED], *(one.reason for one in found)]
        first: list[JsonValue] = [*reasons[:_NAMED]]
        return {"broken_records": len(self._records), "broken_examples": len(found), "first_broken": first}
