"""What one API process knows of who may ask: its keys, the queue before the engine, the caps on a request."""

import time
from dataclasses import dataclass, field

from server.access.body import Bodies
from server.access.book import KeyBook
from server.access.gate import Gate
from server.access.limits import Clock
from server.access.open_keys import OpenKeys

__all__ = ["Access"]

_UNTIL_STARTED = 1024
_BODIES_MB = 1024


@dataclass
class Access:
    """Made when the middleware is attached, filled before the server listens.

    `book`: the keys of `--keys`, None: the server is open. `open_keys`: vLLM's `--api-key` of an open server.
    `open_fields`: what its clients may send of what `server.access.fields` refuses.
    `gate`: the queue; `max_body_mb`: the cap on a body, in MB; `bodies`: all that are held.
    """

    clock: Clock = time.monotonic
    book: KeyBook | None = None
    open_keys: OpenKeys = field(default_factory=OpenKeys)
    open_fields: frozenset[str] = frozenset()
    max_body_mb: int = 64
    bodies: Bodies = field(default_factory=lambda: Bodies(_BODIES_MB))
    gate: Gate = field(init=False)

    def __post_init__(self) -> None:
        self.gate = Gate(self.clock, running=_UNTIL_STARTED, queued=0)
