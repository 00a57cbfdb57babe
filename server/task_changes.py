"""Changes which versions of a task serve: tried on the engine, then written into the store.

Nothing is written before every version of the wish has come to the device and passed its canary, so that a
bad one never takes the place of a good one. What is written is what every replica follows; this one looks
at the store at once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompts.errors import (
    BaseModelMismatchError,
    BundleError,
    CapacityError,
    EngineError,
    PreconditionError,
    StoreError,
    VersionNotFoundError,
    VersionRefusedError,
)
from prompts.faults import fault, shown
from prompts.routing import Route, Share, change_route, read_routing, same_parts
from server.log import logger
from server.service import Service
from server.task_wishes import etag_of, wanted_shares

__all__ = ["apply_shares"]

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class _State:
    """What the store says of one task: its route, and what is to serve."""

    route: Route | None
    shares: tuple[Share, ...]


async def apply_shares(
    service: Service,
    folder: Path,
    name: str,
    shares: tuple[Share, ...],
    *,
    if_match: str | None = None,
    is_rollback: bool = False,
) -> tuple[Share, ...]:
    """Have `shares` serve a task from now on, () for nothing; returns what was to serve before.

    `if_match`: tags of which the task's has to be one. Requests under way finish on what they began with.

    Raises:
        PreconditionError: the task is not as `if_match` says, or was changed meanwhile.
        VersionRefusedError: a version cannot be served here.
        CapacityError: there was no room on the device for so long.
        EngineError: the workers failed.
        StoreError, ReadOnlyStoreError: `routing.json` cannot be read or written.
    """
    found = (await asyncio.to_thread(read_routing, folder)).tasks.get(name)
    seen = _State(found, found.shares if found is not None else wanted_shares(service, name))
    _require_match(seen.shares, if_match)
    for one in shares:
        await _try(service, name, one.digest)

    def change(route: Route | None) -> Route | None:
        if route != seen.route:
            _refuse_changed()
        if is_rollback and route is not None:
            if route.before[-1:] != (shares,):
                _refuse_changed()
            return Route(shares=shares, before=route.before[:-1])
        base = route or Route(shares=seen.shares)  # the same parts: no step to roll back
        return base if same_parts(base.shares, shares) else base.turned_to(shares)

    await asyncio.to_thread(change_route, folder, name, change)
    try:
        await service.look()
    except StoreError as error:  # it is written: the follower will see it
        logger.error("the store cannot be read: %s", error)
    except Exception:  # as above: the change is done, and is to be told and audited so
        logger.exception("the store was not looked at")
    return seen.shares


async def _try(service: Service, name: str, digest: str) -> None:
    """Brings a version to the device, where its canary is asked; not one that serves already."""
    if any(task.digest == digest for task, _ in service.tasks.serving(name)):
        return
    loader = service.loader
    bundle = next((one for one in service.tasks.versions.get(name, ()) if one.digest == digest), None)
    if bundle is None or loader is None:
        raise VersionNotFoundError(fault("digest", expected=digest, came="another", cure="look again"))
    try:
        loader.check(bundle)
        async with asyncio.timeout(_PATIENCE_SECONDS), loader.using(bundle):
            pass
    except TimeoutError as error:
        raise CapacityError(
            "no room on the device for so long: ask again, or raise --max-device-tasks"
        ) from error
    except (BundleError, BaseModelMismatchError) as error:
        faults = error.faults if isinstance(error, BundleError) else [str(error)]
        raise VersionRefusedError(
            f"version {bundle.version} ({digest}) is refused: {'; '.join(faults)}"
        ) from error
    except EngineError as error:
        logger.error("task %s: %s", name, error)
        raise EngineError(f"task {name} cannot be served now; the server's log says why") from error


def _require_match(shares: Sequence[Share], if_match: str | None) -> None:
    if if_match is None or if_match.strip() == "*":
        return
    tag = etag_of(shares)
    if tag not in {one.strip() for one in if_match.split(",")}:
        cure = "GET the task again and look what has changed"
        raise PreconditionError(fault("If-Match", expected=tag, came=shown(if_match), cure=cure))


def _refuse_changed() -> None:
    cure = "GET the task again and look what has changed"
    raise PreconditionError(fault("task", expected="nobody else to change it", came="a change", cure=cure))
