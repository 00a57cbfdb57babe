"""Several bundles of one name are versions of one task; here is decided which of them serve.

A bundle in a folder with `@` in its name waits until it is activated; of those without, a name has one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompts.bundle import Bundle
from prompts.faults import fault
from prompts.routing import ROUTING_FILE, Route, Routing, Share

__all__ = [
    "WAITING_MARK",
    "Choice",
    "choose",
    "is_waiting",
    "slot_name",
    "slots_of",
    "task_of",
    "waiting_folder",
]

WAITING_MARK = "@"
_FOLDER_DIGITS = 12
_SLOT_DIGITS = 16


@dataclass
class Choice:
    """What a store's versions come to.

    `bundles`: slot -> bundle that is to serve; `shares`: name -> what is to serve, () where the task is
    removed; `undecided`: names that go on as they are; `doubles`: bundles of one name of which nothing says
    which is meant; `faults`: of `routing.json`.
    """

    bundles: dict[str, Bundle] = field(default_factory=dict)
    shares: dict[str, tuple[Share, ...]] = field(default_factory=dict)
    undecided: set[str] = field(default_factory=set)
    doubles: list[list[Bundle]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def choose(versions: Mapping[str, Sequence[Bundle]], routing: Routing) -> Choice:
    """Decide for each name of `versions` (name -> its bundles, each digest once), as `routing` says."""
    choice = Choice()
    for name, found in versions.items():
        route = routing.tasks.get(name)
        if route is not None:
            _follow(choice, name, found, route)
            continue
        plain = [one for one in found if not is_waiting(one.path)]
        if len(plain) > 1:
            choice.undecided.add(name)
            choice.doubles.append(plain)
            continue
        for one in plain:
            choice.shares[name], choice.bundles[name] = (Share(digest=one.digest),), one
    removed = (name for name, route in routing.tasks.items() if not route.shares)
    choice.shares |= dict.fromkeys(removed, ())
    return choice


def is_waiting(path: Path | None) -> bool:
    """Whether a bundle's folder says that it is not to serve before it is activated."""
    return path is not None and WAITING_MARK in path.name


def waiting_folder(name: str, digest: str) -> str:
    """The folder of a version that waits until it is activated."""
    return f"{name}{WAITING_MARK}{digest[:_FOLDER_DIGITS]}"


def slot_name(name: str, digest: str, position: int) -> str:
    """Where a task's share stands: the first under the task's name, the others beside it."""
    return name if position == 0 else f"{name}{WAITING_MARK}{digest[:_SLOT_DIGITS]}"


def slots_of(name: str, shares: Iterable[Share]) -> list[tuple[str, Share]]:
    """Each share with its slot."""
    return [(slot_name(name, one.digest, position), one) for position, one in enumerate(shares)]


def task_of(slot: str) -> str:
    """The task of a slot; no task's name has the mark in it."""
    return slot.partition(WAITING_MARK)[0]


def _follow(choice: Choice, name: str, found: Sequence[Bundle], route: Route) -> None:
    by_digest = {one.digest: one for one in found}
    choice.shares[name] = route.shares
    there = {
        slot: by_digest[one.digest] for slot, one in slots_of(name, route.shares) if one.digest in by_digest
    }
    choice.bundles |= there
    if route.shares and not there:
        choice.undecided.add(name)
    for one in route.shares:
        if one.digest not in by_digest:
            expected, came = f"a bundle of task {name} with the digest {one.digest}", "none in the store"
            cure = f"bring it back, or activate another: PUT /v1/tasks/{name}"
            choice.faults.append(fault(ROUTING_FILE, expected=expected, came=came, cure=cure))
