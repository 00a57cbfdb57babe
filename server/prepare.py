"""From what a client sent to what vLLM reads: the task resolved, pictures looked at, usage put in."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompts.errors import PictureRequiredError, UnsupportedError
from prompts.faults import fault
from server.pictures import Picture, find_pictures, require_readable
from server.resolve import TASK_HEADER, named_task, split_alias
from server.service import Service
from server.surface import ROUTES, Route
from server.tasks import ResidentTask
from server.usage import apply_usage

__all__ = ["Asked", "parse_body", "prepare_body", "resolve_task"]

Body = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request as it came. `body` is {} where `raw` is no JSON object: vLLM refuses it in its own words."""

    path: str
    raw: bytes
    body: Body
    task_headers: list[str]

    @property
    def is_streamed(self) -> bool:
        """Whether the client asked for server-sent events."""
        return self.body.get("stream") is True


def parse_body(raw: bytes) -> Body:
    """The JSON object of a body, {} where there is none."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def resolve_task(asked: Asked, route: Route | None, service: Service) -> ResidentTask | None:
    """The task of a request, None for the base model.

    Raises:
        InputError, TaskConflictError, TaskNotFoundError: what was named is no one task that is resident.
        UnsupportedError: the route takes no task.
    """
    body: Mapping[str, Any] = asked.body if route is not None else {}
    name = named_task(body, asked.task_headers, service.base_names)
    if name is None:
        return None
    if route is None or route.shape is None:
        takes = ", ".join(path for path, known in ROUTES.items() if known.shape and known.generates)
        raise UnsupportedError(
            fault(
                "task" if asked.body.get("task") is not None else TASK_HEADER,
                expected=f"a route that takes tasks ({takes})",
                came=asked.path,
                cure="ask it at /v1/chat/completions, or leave the task out",
            )
        )
    return service.tasks.find(name)


async def prepare_body(
    asked: Asked, route: Route | None, task: ResidentTask | None, service: Service
) -> tuple[bytes, list[Picture]]:
    """The body for vLLM (the very bytes that came, where nothing had to change) and its pictures.

    Raises:
        PictureError: a picture that is none, or too large.
        PictureRequiredError: without a picture the task would change nothing.
        UnsupportedError: the task answers by choices and the route cannot.
    """
    if route is None or route.shape is None:
        return asked.raw, []
    pictures = find_pictures(asked.body)
    if pictures:
        await asyncio.to_thread(
            require_readable,
            pictures,
            max_pixels=service.max_picture_pixels,
            local_files=service.local_files,
        )
    body = _without_alias(asked.body, service)
    if task is not None:
        if task.handle.needs_picture and route.generates and not pictures:
            raise PictureRequiredError(task.name)
        usage = task.bundle.manifest.usage
        body = apply_usage(body, usage, shape=route.shape, generates=route.generates)
    return (asked.raw if body == asked.body else json.dumps(body).encode()), pictures


def _without_alias(body: Body, service: Service) -> Body:
    alias = split_alias(body.get("model"), service.base_names)
    return body if alias is None else {**body, "model": alias[0]}
