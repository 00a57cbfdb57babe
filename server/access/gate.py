"""A bounded queue before the engine: what would wait too long is told so at once.

vLLM queues without end what it cannot run yet. Here requests that are under way are counted, and one that
would make the queue longer than it may be is refused while refusing is still cheap.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompts.errors import DrainingError, OverloadedError
from prompts.faults import fault
from server.access.limits import Clock

__all__ = ["Gate"]

_WEIGHT = 0.1
"""Of the newest request in the mean of their lengths."""
_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 60.0
_ELSEWHERE_SECONDS = 1.0
"""When to ask again where the server stops: another one, or the next, answers."""


def _nobody() -> None:
    """Nobody is told."""


class Gate:
    """At most `running` + `queued` requests at a time; the engine runs so many of them at once.

    `under_way`: how many are inside. `is_closed`: nobody comes in any more, the server stops. `changed` is
    called when `under_way` has changed.
    """

    def __init__(self, clock: Clock, *, running: int, queued: int) -> None:
        self._clock = clock
        self._running = max(running, 1)
        self._queued = queued
        self._mean_seconds = _FIRST_SECONDS
        self.under_way = 0
        self.is_closed = False
        self.changed: Callable[[], None] = _nobody

    @property
    def waiting(self) -> int:
        """Requests that the engine cannot have begun."""
        return max(self.under_way - self._running, 0)

    def require_room(self) -> None:
        """Look without entering, before a body is read.

        Raises:
            DrainingError: the server stops.
            OverloadedError: the queue is full; says when a place should be free.
        """
        if self.is_closed:
            expected, cure = "one that goes on", "ask again"
            raise DrainingError(
                fault("server", expected=expected, came="one that stops", cure=cure), _ELSEWHERE_SECONDS
            )
        if self.under_way < self._running + self._queued:
            return
        # One place is free when one of those that run ends: on the mean after this share of one's length.
        seconds = min(self._mean_seconds * (self._queued + 1) / self._running, _LONGEST_SECONDS)
        expected, came = f"at most {self._queued} requests waiting", "more"
        raise OverloadedError(fault("server", expected=expected, came=came, cure="ask again later"), seconds)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """One request, under way inside.

        Raises:
            DrainingError, OverloadedError: see `require_room`.
        """
        self.require_room()
        self.under_way += 1
        self.changed()
        started = self._clock()
        try:
            yield
        finally:
            self.under_way -= 1
            self.changed()
            self._mean_seconds += _WEIGHT * (self._clock() - started - self._mean_seconds)
