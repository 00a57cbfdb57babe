"""Which task a request asks for: body field `task`, header `X-Task`, or alias `model: "base:task"`.

They may be given together as long as they agree. `task: null` is the same as no `task`.
"""

import secrets
from collections.abc import Collection, Mapping
from typing import Any

from prompts.errors import InputError, TaskConflictError
from prompts.faults import fault, shown

__all__ = ["STICKY_HEADER", "TASK_FIELD", "TASK_HEADER", "named_task", "split_alias", "sticky_of"]

TASK_FIELD = "task"
TASK_HEADER = "X-Task"
STICKY_HEADER = "X-Sticky"
_SEPARATOR = ":"


def split_alias(model: object, base_names: Collection[str]) -> tuple[str, str] | None:
    """Split `base:task` into its two names; None where `model` is no alias of a served base model.

    A served base model whose own name holds a colon stays itself.
    """
    if not isinstance(model, str) or model in base_names:
        return None
    base, separator, task = model.rpartition(_SEPARATOR)
    return (base, task) if separator and base in base_names else None


def named_task(body: Mapping[str, Any], headers: list[str], base_names: Collection[str]) -> str | None:
    """Return the name of the task asked for, None for the base model.

    `headers`: every value of the header `X-Task`.

    Raises:
        InputError: a name that is empty or no string.
        TaskConflictError: two names that differ.
    """
    given: list[tuple[str, object]] = []
    if body.get(TASK_FIELD) is not None:
        given.append((f"body field {TASK_FIELD}", body[TASK_FIELD]))
    given += [(f"header {TASK_HEADER}", value) for value in headers]
    alias = split_alias(body.get("model"), base_names)
    if alias is not None:
        given.append(("body field model", alias[1]))
    names = [(place, _checked(place, name)) for place, name in given]
    if len({name for _, name in names}) > 1:
        raise TaskConflictError(dict(names))
    return names[0][1] if names else None


def sticky_of(body: Mapping[str, Any], headers: list[str]) -> str:
    """What keeps a client on one version of a task: its header `X-Sticky`, else the body's `user` (or, as
    Anthropic has it, `metadata.user_id`); where it says nothing, something new at each request."""
    metadata = body.get("metadata")
    said = [*headers, body.get("user"), metadata.get("user_id") if isinstance(metadata, Mapping) else None]
    return next((one for one in said if isinstance(one, str) and one), None) or secrets.token_hex(8)


def _checked(place: str, name: object) -> str:
    if isinstance(name, str) and name:
        return name
    came = shown(name) if isinstance(name, str | int | float) else f"a value of type {type(name).__name__}"
    raise InputError(
        fault(place, expected="the name of a task", came=came, cure="GET /v1/tasks lists the names")
    )
