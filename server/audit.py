"""The audit log: one JSON line for each change of a task that somebody asked for, done or refused.

    {"time": "2026-11-22T01:02:03.456+00:00", "event": "task.activate", "task": "cifar", "by": "boss",
     "request_id": "…", "outcome": "done", "digest_before": "ab12…", "digest_after": "cd34…",
     "traffic_before": [{"digest": "ab12…", "weight": 1}], "traffic_after": […]}

The logger `passepartout.audit` writes it to stderr and, with `--audit-log FILE`, to that file too.
"""

import json
import logging
import logging.handlers
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.routing import Share
from server.access.caller import CURRENT_CALLER
from server.observe.record import CURRENT_RECORD

__all__ = ["Change", "audit", "open_audit"]

_log = logging.getLogger("passepartout.audit")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What was asked for. `event`: `task.activate`, `task.split`, `task.rollback` or `task.delete`."""

    event: str
    task: str


def open_audit(file: Path | None) -> None:
    """Have the log written to stderr, and to the end of `file` where there is one; once that is moved away
    (log rotation), to a new one in its place.

    Raises:
        ConfigError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        try:
            handlers.append(logging.handlers.WatchedFileHandler(file, encoding="utf-8"))
        except OSError as error:
            came, cure = error.strerror or type(error).__name__, "create its folder or correct the path"
            found = fault("--audit-log", expected="a file that can be written", came=came, cure=cure)
            raise ConfigError("passepartout serve", [found]) from error
    for old in list(_log.handlers):
        _log.removeHandler(old)
        old.close()
    for one in handlers:
        one.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(one)
    _log.setLevel(logging.INFO)
    _log.propagate = False


def audit(change: Change, before: Sequence[Share], after: Sequence[Share], *, outcome: str) -> None:
    """Write one line. `outcome`: `done`, or the code of the error; then `after` is as `before`."""
    caller, record = CURRENT_CALLER.get(), CURRENT_RECORD.get()
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": change.event,
        "task": change.task,
        "by": caller.name if caller is not None else None,
        "request_id": record.request_id if record is not None else None,
        "outcome": outcome,
        "digest_before": before[0].digest if before else None,
        "digest_after": after[0].digest if after else None,
        "traffic_before": [one.model_dump() for one in before],
        "traffic_after": [one.model_dump() for one in after],
    }
    _log.info("%s", json.dumps(line, ensure_ascii=True))
