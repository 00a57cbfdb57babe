"""What becomes known of one request while it is answered, for its line in the log and its span.

The outermost middleware makes the record; whatever learns something of the request writes it in. Nothing that
a client wrote is in it but the request id, which has a form, and names that are served.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

__all__ = ["CURRENT_RECORD", "Record", "note"]


@dataclass
class Record:
    """One request. `route`: as `server.access.policy` writes it, `_unknown` for any other path.

    `status`: None until an answer begins. `key`: the name of the caller's. `task`, `digest`: what serves it,
    of `model`. Tokens are those of all its prompts. `error_code`: of ours, or as in `server.answer`;
    `is_refused`: nothing was asked of the engine because of who asks, or how much is asked already.
    """

    request_id: str
    method: str
    route: str
    trace_id: str | None = None
    status: int | None = None
    key: str | None = None
    task: str | None = None
    digest: str | None = None
    model: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    error_code: str | None = None
    is_refused: bool = False

    def add_tokens(self, *, prompt: int, cached: int, completion: int) -> None:
        """Count what one prompt and its answer took."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion


CURRENT_RECORD: ContextVar[Record | None] = ContextVar("passepartout_record", default=None)
"""Set by `server.observe.middleware`; tasks that vLLM starts for the request inherit it."""


def note(**known: Any) -> None:
    """Write fields of `Record` into the current one; outside a request nothing happens."""
    record = CURRENT_RECORD.get()
    if record is not None:
        for name, value in known.items():
            setattr(record, name, value)
