"""A store elsewhere, followed: brought into a local folder, which is what the server serves.

A source that is away leaves that folder as it is, and `/ready` says so.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from prompts.errors import InputError, SourceError
from prompts.remote import Source, SyncReport
from prompts.remote_lock import Lock
from server.log import logger

__all__ = ["FollowedSource", "first_look"]


@dataclass
class FollowedSource:
    """`folder`: where the bundles are brought to; `lock_file`: what may come. `is_away`: the last look
    failed; `refused`: folder at the source -> why it is not taken; `unnamed`: folders there that the lock
    does not name."""

    source: Source
    folder: Path
    lock_file: Path | None = None
    is_away: bool = False
    refused: dict[str, list[str]] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)

    async def look(self) -> bool:
        """Bring the folder to what the source holds; whether anything came."""
        try:
            report = await asyncio.to_thread(self._sync)
        except InputError as error:
            if not self.is_away:
                logger.error("the source of the tasks is away, they stay as they are: %s", error)
            self.is_away = True
            return False
        if self.is_away:
            logger.info("the source of the tasks can be read again")
        for name, faults in report.refused.items():
            if self.refused.get(name) != faults:
                logger.error("bundle %s of the source is not taken: %s", name, "; ".join(faults))
        if report.unnamed != self.unnamed:
            logger.info("the lock does not name of the source: %s", ", ".join(report.unnamed) or "nothing")
        self.is_away, self.refused, self.unnamed = False, report.refused, report.unnamed
        return bool(report.came or report.went)

    def _sync(self) -> SyncReport:
        lock = Lock.read(self.lock_file) if self.lock_file is not None else None
        return self.source.sync(self.folder, lock=lock, progress=_say)


def first_look(address: str, folder: Path, lock_file: Path | None) -> None:
    """Fetch before the engine starts, whose room is planned by the bundles.

    Raises:
        SourceError: the source is away, and nothing of it is here from earlier.
    """
    followed = FollowedSource(Source(address), folder, lock_file)
    try:
        followed._sync()
    except SourceError as error:
        if not any(one.is_dir() and not one.name.startswith(".") for one in folder.iterdir()):
            raise
        logger.error("the source of the tasks is away, what is here from earlier is served: %s", error)


def _say(said: str) -> None:
    logger.info("fetching %s", said)
