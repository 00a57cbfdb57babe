"""Who asks: what a key lets its holder do, as every part of the server may read it.

`CURRENT_CALLER` is set by `server.access.middleware` for as long as a request lasts; the tasks that vLLM
starts for the request inherit it. None: the server was started without keys, and everybody is a user.
"""

import hmac
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256

from prompts.errors import ForbiddenError, TaskNotFoundError
from prompts.faults import fault, shown

__all__ = ["ALL_TASKS", "CURRENT_CALLER", "Caller", "is_admin", "may_see", "not_found", "require_task"]

ALL_TASKS = "*"


def _no_account(tokens: int) -> None:
    """Nobody counts."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The holder of a key. `name`: the key's, for logs.

    `admin`: may do everything. `tasks`: names it may ask, `*` for all; `base`: may ask without a task;
    `metrics`: may read the metrics; `allow`: fields it may use (`server.access.fields`). `cache_salt`: what
    its prompts are salted with in vLLM's prefix cache. `spend` is told the tokens of each of its prompts.
    """

    name: str
    admin: bool = False
    tasks: frozenset[str] = frozenset()
    base: bool = False
    metrics: bool = False
    allow: frozenset[str] = frozenset()
    cache_salt: str = ""
    spend: Callable[[int], None] = field(default=_no_account, compare=False, repr=False)

    def salt_for(self, own: str | None) -> str:
        """What a prompt of the caller is salted with; `own`: what it asked for, which divides its part of the
        cache and never leads out of it."""
        if not own:
            return self.cache_salt
        return hmac.new(self.cache_salt.encode(), own.encode("utf-8", "surrogatepass"), sha256).hexdigest()

    @property
    def is_scraper(self) -> bool:
        """Whether the metrics are all that it may have."""
        return self.metrics and not (self.admin or self.base or self.tasks)

    def may_ask(self, task: str | None) -> bool:
        """Whether it may ask that task; None is the base model."""
        if self.admin:
            return True
        return self.base if task is None else task in self.tasks or ALL_TASKS in self.tasks


CURRENT_CALLER: ContextVar[Caller | None] = ContextVar("passepartout_caller", default=None)
"""Set by `server.access.middleware`."""


def is_admin() -> bool:
    """Whether the current caller holds an admin's key."""
    caller = CURRENT_CALLER.get()
    return caller is not None and caller.admin


def may_see(task: str) -> bool:
    """Whether the current caller may know of a task."""
    caller = CURRENT_CALLER.get()
    return caller is None or caller.may_ask(task)


def not_found(task: str, known: Iterable[str]) -> TaskNotFoundError:
    """Says of a task that is not served which of the `known` ones the current caller may ask."""
    caller = CURRENT_CALLER.get()
    is_limited = caller is not None and not caller.admin and ALL_TASKS not in caller.tasks
    return TaskNotFoundError(task, [one for one in known if may_see(one)], is_limited)


def require_task(task: str | None) -> None:
    """Refuse a task that the current caller may not ask, whether there is one of that name or not.

    Raises:
        ForbiddenError: its key does not list the task, or does not let it ask without one.
    """
    caller = CURRENT_CALLER.get()
    if caller is None or caller.may_ask(task):
        return
    came = "none" if task is None else shown(task)
    expected, cure = "a task that this key may ask", "GET /v1/tasks lists them"
    raise ForbiddenError(fault("task", expected=expected, came=came, cure=cure), field="task")
