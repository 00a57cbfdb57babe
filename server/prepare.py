"""From what a client sent to what vLLM reads: the task resolved, pictures looked at, usage put in."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompts.errors import InputError, PictureRequiredError, TaskNotFoundError, UnsupportedError
from prompts.faults import fault, shown
from server.access.caller import not_found, require_task
from server.engine.handles import MODALITY, RESERVED_HASH_PREFIX
from server.pictures import Picture, find_pictures, require_readable
from server.resolve import TASK_HEADER, named_task, split_alias
from server.served import ServedTask
from server.service import Service
from server.surface import ROUTES, Route, Shape
from server.usage import apply_usage

__all__ = ["Asked", "parse_body", "prepare_body", "resolve_task"]

Body = dict[str, Any]

_PROCESSOR_FIELD = "mm_processor_kwargs"


@dataclass(frozen=True)
class Asked:
    """A request as it came. `body` is {} where `raw` is no JSON object: vLLM refuses it in its own words.

    `sticky`: what keeps it on one version of its task (`server.resolve.sticky_of`).
    """

    path: str
    raw: bytes
    body: Body
    task_headers: list[str]
    sticky: str = ""

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


def resolve_task(asked: Asked, route: Route | None, service: Service) -> ServedTask | None:
    """The task of a request, None for the base model.

    Raises:
        ForbiddenError: the caller may not ask it, or not without a task.
        InputError, TaskConflictError, TaskNotFoundError: what was named is no one task that is served.
        UnsupportedError: the route takes no task.
    """
    body: Mapping[str, Any] = asked.body if route is not None else {}
    name = named_task(body, asked.task_headers, service.base_names)
    require_task(name)
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
    try:
        return service.tasks.find(name, asked.sticky)
    except TaskNotFoundError as error:
        raise not_found(name, error.known) from None


async def prepare_body(
    asked: Asked, route: Route | None, task: ServedTask | None, service: Service
) -> tuple[bytes, list[Picture]]:
    """The body for vLLM (the very bytes that came, where nothing had to change) and its pictures.

    Raises:
        InputError: the request would have its pictures preprocessed in another way, or brings items under
            hashes of ours.
        PictureError: a picture that is none, too large or too narrow.
        PictureRequiredError: without a picture the task would change nothing.
        UnsupportedError: the task answers by choices and the route cannot.
    """
    if route is None or route.shape is None:
        _check_features(asked.body)
        return asked.raw, []
    _check_preprocessing(asked.body)
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
        if task.needs_picture and route.generates and not pictures:
            raise PictureRequiredError(task.name, "prompt" if route.shape is Shape.TEXT else "messages")
        _check_prompt_logprobs(body, task)
        usage = task.bundle.manifest.usage
        body = apply_usage(body, usage, shape=route.shape, generates=route.generates)
    return (asked.raw if body == asked.body else json.dumps(body).encode()), pictures


def _check_prompt_logprobs(body: Body, task: ServedTask) -> None:
    """vLLM makes them by the model's own output layer."""
    with_echo = body.get("echo") and body.get("logprobs") is not None
    wanted = body.get("prompt_logprobs") is not None or with_echo
    if task.bundle.manifest.lm_head and wanted:
        cure = "ask for logprobs of the answer alone"
        came = "a request for them, and a task with an lm_head of its own"
        raise UnsupportedError(fault("prompt_logprobs", expected="none", came=came, cure=cure))


def _check_preprocessing(body: Body) -> None:
    """Pixels of another size than the tower's would end vLLM's engine."""
    given = body.get(_PROCESSOR_FIELD)
    if given:
        cure = "leave it out: pictures are prepared as the model and its tasks were trained"
        raise InputError(fault(_PROCESSOR_FIELD, expected="null", came=shown(given), cure=cure))


def _check_features(body: Body) -> None:
    """`/inference/v1/generate` takes items past the renderer: none may be made by the client, or lie in our
    part of the caches."""
    features = body.get("features")
    if isinstance(features, dict) and features.get("kwargs_data"):
        field, cure = "features.kwargs_data", "send the picture itself, to a route that takes pictures"
        raise InputError(fault(field, expected="null", came="tensors, which no client may send", cure=cure))
    given = features.get("mm_hashes") if isinstance(features, dict) else None
    for modality, hashes in given.items() if isinstance(given, dict) else ():
        listed = hashes if isinstance(hashes, list) else [hashes]
        if modality == MODALITY or any(str(one).startswith(RESERVED_HASH_PREFIX) for one in listed):
            field = f"features.mm_hashes.{shown(modality)}"
            expected = f"hashes that do not begin with {RESERVED_HASH_PREFIX}"
            cure = "tasks are named by requests, not carried in them"
            raise InputError(fault(field, expected=expected, came="a learned prompt's", cure=cure))


def _without_alias(body: Body, service: Service) -> Body:
    alias = split_alias(body.get("model"), service.base_names)
    return body if alias is None else {**body, "model": alias[0]}
