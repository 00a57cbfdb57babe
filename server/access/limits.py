"""How much a key may ask: requests and tokens per minute, requests at a time.

Buckets fill steadily: a key of 60 requests a minute may ask 60 at once, then one a second. Tokens are known
when a prompt has been answered, so they are counted afterwards and a request is admitted while any are left;
what it takes too much is paid off before the next. Counted in one process: with several front ends each has
its own buckets.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prompts.errors import RateLimitError
from prompts.faults import fault

__all__ = ["Account", "Bucket", "Clock"]

Clock = Callable[[], float]
"""Seconds that never go back."""

_MINUTE = 60.0
_ROUNDING = 1e-6
_BUSY_SECONDS = 1.0
"""When to ask again where too many requests are under way: nobody knows when they end."""


@dataclass
class Bucket:
    """`limit` per minute; `level`: what is left, below zero where more was taken than there was."""

    limit: int
    level: float
    filled: float

    @classmethod
    def full(cls, limit: int, now: float) -> "Bucket":
        """A bucket nobody has taken from."""
        return cls(limit, float(limit), now)

    def fill(self, now: float) -> None:
        """Add what has come since the last time."""
        self.level = min(self.level + (now - self.filled) * self.limit / _MINUTE, float(self.limit))
        self.filled = now

    def seconds_until(self, level: float) -> float:
        """How long until so much is left; 0.0 where it is."""
        return max(level - self.level, 0.0) * _MINUTE / self.limit

    def resize(self, limit: int, now: float) -> None:
        """Go on under another limit: what was taken stays taken."""
        self.fill(now)
        taken = self.limit - self.level
        self.limit, self.level = limit, float(limit) - taken


class Account:
    """What one name has used. It outlives the entry it was made for: the file may change while it counts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._concurrency: int | None = None
        self._running = 0

    def configure(self, *, requests: int | None, tokens: int | None, concurrency: int | None) -> None:
        """Set the limits, per minute and at a time; None: no limit."""
        now = self._clock()
        self._concurrency = concurrency
        for kind, limit in (("requests", requests), ("tokens", tokens)):
            if limit is None:
                self._buckets.pop(kind, None)
            elif kind in self._buckets:
                self._buckets[kind].resize(limit, now)
            else:
                self._buckets[kind] = Bucket.full(limit, now)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One request, counted from here and under way inside.

        Raises:
            RateLimitError: says which limit is reached, and when to ask again.
        """
        self._require_room()
        if bucket := self._buckets.get("requests"):
            bucket.level -= 1.0
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def spend(self, tokens: int) -> None:
        """Count the tokens that a prompt and its answer took."""
        if bucket := self._buckets.get("tokens"):
            bucket.fill(self._clock())
            bucket.level -= tokens

    def headers(self) -> dict[str, str]:
        """What is left, as OpenAI's API says it."""
        now = self._clock()
        said = {}
        for kind, bucket in self._buckets.items():
            bucket.fill(now)
            said[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            said[f"x-ratelimit-remaining-{kind}"] = str(max(math.floor(bucket.level), 0))
            said[f"x-ratelimit-reset-{kind}"] = f"{bucket.seconds_until(bucket.limit):.3f}s"
        return said

    def _require_room(self) -> None:
        now = self._clock()
        for kind, bucket in self._buckets.items():
            bucket.fill(now)
            if bucket.level < 1.0 - _ROUNDING:
                raise _refusal(f"{kind} per minute", bucket.limit, bucket.seconds_until(1.0))
        if self._concurrency is not None and self._running >= self._concurrency:
            raise _refusal("requests at a time", self._concurrency, _BUSY_SECONDS)


def _refusal(what: str, limit: int, seconds: float) -> RateLimitError:
    cure = f"ask again in {max(math.ceil(seconds), 1)} s"
    return RateLimitError(fault("key", expected=f"at most {limit} {what}", came="more", cure=cure), seconds)
