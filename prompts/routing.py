"""Which of a task's versions serve: `routing.json` in the store, desired state that every replica reads.

    {"format": 1, "tasks": {"cifar": {"shares": [{"digest": "ab12…", "weight": 90},
                                                 {"digest": "cd34…", "weight": 10}],
                                      "before": [[{"digest": "ab12…", "weight": 100}]]}}}

`shares`: what serves, by weight; none: the task is removed, its files stay. `before`: what served earlier,
the latest last. A task that is not named here is served by its one bundle whose folder's name has no `@`.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, model_validator

from prompts.errors import OverloadedError, ReadOnlyStoreError, StoreError
from prompts.faults import fault, in_one_line, validation_faults
from prompts.manifest import NAME_PATTERN, Part

__all__ = [
    "MAX_ROUTING_BYTES",
    "MAX_WEIGHT",
    "ROUTING_FILE",
    "Route",
    "Routing",
    "Share",
    "change_route",
    "pick_share",
    "read_routing",
    "same_parts",
]

ROUTING_FILE = "routing.json"
MAX_WEIGHT = 1_000_000
_LOCK_FILE = ".routing.lock"
_PATIENCE_SECONDS, _PAUSE_SECONDS = 5.0, 0.02
"""How long a change waits for others, and between two tries."""
MAX_ROUTING_BYTES = 16 << 20
_KEPT = 16
_MAX_SHARES = 16

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class Share(Part):
    """A version, known by its digest, and its part of the task's traffic beside the others' weights."""

    digest: Digest
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 1


Shares = Annotated[tuple[Share, ...], Field(max_length=_MAX_SHARES)]


class Route(Part):
    """`shares`: what serves; `before`: what served earlier, the latest last."""

    shares: Shares
    before: tuple[Shares, ...] = ()

    @model_validator(mode="after")
    def _names_each_version_once(self) -> "Route":
        if len({one.digest for one in self.shares}) < len(self.shares):
            raise ValueError("expected each digest once, came one twice; add their weights up")
        return self

    def turned_to(self, shares: Sequence[Share]) -> "Route":
        """The route with other shares, and those it had kept for a rollback."""
        return Route(shares=tuple(shares), before=(*self.before, self.shares)[-_KEPT:])


class Routing(Part):
    """The file. `tasks`: task name -> its route."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    tasks: dict[Name, Route] = Field(default_factory=dict)


def read_routing(folder: Path) -> Routing:
    """What the store says of its versions; nothing where there is no such file.

    Raises:
        StoreError: the file cannot be read or is not as it should be; each fault is named.
    """
    try:
        with open(folder / ROUTING_FILE, "rb", opener=_without_waiting) as file:
            raw = file.read(MAX_ROUTING_BYTES + 1)
    except FileNotFoundError:
        return Routing()
    except OSError as error:
        came, cure = error.strerror or type(error).__name__, "correct its permissions"
        raise StoreError(fault(ROUTING_FILE, expected="a readable file", came=came, cure=cure)) from error
    if len(raw) > MAX_ROUTING_BYTES:
        expected, cure = f"at most {MAX_ROUTING_BYTES} bytes", "remove tasks that are no more"
        raise StoreError(fault(ROUTING_FILE, expected=expected, came="more", cure=cure))
    try:
        return Routing.model_validate_json(raw)
    except ValidationError as error:
        raise StoreError(in_one_line(validation_faults(error, source=ROUTING_FILE))) from error


def change_route(folder: Path, name: str, change: Callable[[Route | None], Route | None]) -> Route | None:
    """Exchange one task's route for what `change` makes of it, and return that; None: it has none.

    Others that change the file at the same time, on this machine or on a file system that has locks, wait;
    whoever reads it sees it before or after. What `change` raises leaves everything as it was.

    Raises:
        StoreError: the file is not as it should be.
        ReadOnlyStoreError: it cannot be written.
        OverloadedError: somebody else has held the lock for so long.
    """
    with _locked(folder):
        routing = read_routing(folder)
        route = change(routing.tasks.get(name))
        if route != routing.tasks.get(name):
            tasks = {key: one for key, one in routing.tasks.items() if key != name}
            tasks |= {} if route is None else {name: route}
            _write(folder, Routing(tasks=dict(sorted(tasks.items()))))
    return route


def pick_share(name: str, shares: Sequence[Share], sticky: str) -> Share:
    """The one of `shares` that answers whoever says `sticky`: always the same, on every replica.

    Where weights shift, only as many change over as have to: they lie on a line in the order of `shares`.
    """
    hashed = hashlib.sha256(f"{name}\0{sticky}".encode("utf-8", "surrogatepass")).digest()
    total = sum(one.weight for one in shares)
    point = int.from_bytes(hashed[:8]) * total >> 64
    for one in shares:
        point -= one.weight
        if point < 0:
            return one
    raise AssertionError("the point lies below the sum of the weights")


def same_parts(one: Sequence[Share], other: Sequence[Share]) -> bool:
    """Whether both send the same parts of the traffic to the same versions, whatever the weights' sums."""
    return _parts(one) == _parts(other)


def _parts(shares: Sequence[Share]) -> list[tuple[str, Fraction]]:
    total = sum(one.weight for one in shares)
    return [(one.digest, Fraction(one.weight, total)) for one in shares]


def _without_waiting(path: str, flags: int) -> int:
    """A pipe in the file's place would have its readers wait for ever."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(open(folder / _LOCK_FILE, "ab", opener=_without_waiting))
            _take(lock.fileno())
        except OSError as error:
            raise _read_only(error) from error
        yield


def _take(lock: int) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end:
                cure = "ask again, or look which process holds it"
                found = fault(_LOCK_FILE, expected="a lock that is given back", came="none", cure=cure)
                raise OverloadedError(found, _PATIENCE_SECONDS) from error
        time.sleep(_PAUSE_SECONDS)


def _write(folder: Path, routing: Routing) -> None:
    draft = folder / f".{ROUTING_FILE}.{secrets.token_hex(4)}.new"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(routing.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / ROUTING_FILE)
    except OSError as error:
        raise _read_only(error) from error
    finally:
        draft.unlink(missing_ok=True)


def _read_only(error: OSError) -> ReadOnlyStoreError:
    came = error.strerror or type(error).__name__
    cure = "let the server write the folder, or change routing.json where the store is written"
    return ReadOnlyStoreError(fault("store", expected="a folder that can be written", came=came, cure=cure))
