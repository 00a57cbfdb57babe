"""Our own routes: the tasks, their frames, readiness, and the model list with tasks in it.

| route | answers |
|---|---|
| `GET /v1/tasks`                    | `{"object": "list", "data": [task, …]}`, by name |
| `GET /v1/tasks/{name}`             | one task; 404 `task_not_found` |
| `GET /v1/tasks/{name}/preview.png` | its frame around a grey picture; 404 `task_has_no_frame` |
| `GET /v1/models`                   | vLLM's list and one `base:task` per task, with `parent` |
| `GET /v1/models/{id}`              | one of them; 404 `model_not_found` |
| `GET /ready`                       | see `ready` |
"""

import asyncio
import io
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from prompts.bundle import Bundle
from prompts.errors import ModelNotFoundError, PassepartoutError
from prompts.faults import fault, shown
from prompts.frame import preview
from server.access.caller import is_admin, may_see, require_task
from server.errors import error_response
from server.middleware import DIGEST_HEADER
from server.resolve import TASK_HEADER
from server.service import Service
from server.tasks import ServedTask
from server.vllm_models import list_base_models

__all__ = ["add_routes"]

_PROVENANCE = ("method", "seed", "libraries", "commit", "created")
"""What is told of a bundle's making. Its data and config may name paths of the machine that trained it."""


def add_routes(app: FastAPI, service: Service) -> None:
    """Put our routes and the answer to our errors on `app`."""
    router = APIRouter(tags=["tasks"])

    @router.get("/v1/tasks")
    async def list_tasks() -> JSONResponse:
        """Every task that requests of this caller may name."""
        tasks = [_describe(task) for task in _seen(service)]
        return JSONResponse({"object": "list", "data": tasks})

    @router.get("/v1/tasks/{name}")
    async def show_task(name: str) -> JSONResponse:
        """One task: what its bundle says, and the digest that serves."""
        require_task(name)
        task = service.tasks.find(name)
        return JSONResponse(_describe(task), headers=_headers(task))

    @router.get("/v1/tasks/{name}/preview.png", response_class=Response)
    async def show_preview(name: str) -> Response:
        """The task's frame as people see it, clipped to 8 bits."""
        require_task(name)
        task = service.tasks.find(name)
        png = await asyncio.to_thread(_draw, task.bundle)
        return Response(png, media_type="image/png", headers=_headers(task))

    @router.get("/v1/models")
    async def list_models(request: Request) -> JSONResponse:
        """The base model's names, and one `base:task` per task."""
        return JSONResponse(await _models(request, service))

    @router.get("/v1/models/{name}")
    async def show_model(name: str, request: Request) -> JSONResponse:
        """One of them."""
        listed = (await _models(request, service))["data"]
        found = next((one for one in listed if one["id"] == name), None)
        if found is None:
            expected, cure = "a model that is listed", "GET /v1/models lists them"
            raise ModelNotFoundError(fault("model", expected=expected, came=shown(name), cure=cure))
        return JSONResponse(found)

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """Say whether requests are answered.

        200 `ready`: the engine is up and every bundle of the store is served. 200 `degraded`: the engine is
        up, some bundles are refused, each listed with its faults; the good ones serve, so a load balancer
        keeps the server. 503 `no_tasks`: every bundle of the store is refused. 503 `starting` or
        `engine_down`: nothing is answered; `draining`: what is under way is, and then the server stops.
        Where the server has keys, all but the word is for admins.
        """
        status, body = await _readiness(service)
        return JSONResponse(body, status_code=status)

    app.include_router(router)

    @app.exception_handler(PassepartoutError)
    async def answer_error(request: Request, error: PassepartoutError) -> Response:
        return error_response(error, path=request.url.path)


async def _readiness(service: Service) -> tuple[HTTPStatus, dict[str, Any]]:
    tasks = service.tasks
    if not tasks.loaded:
        state, status = "starting", HTTPStatus.SERVICE_UNAVAILABLE
    elif service.access.gate.is_closed:
        state, status = "draining", HTTPStatus.SERVICE_UNAVAILABLE
    elif not await service.engine_is_healthy():
        state, status = "engine_down", HTTPStatus.SERVICE_UNAVAILABLE
    elif tasks.faults and not tasks.tasks:
        state, status = "no_tasks", HTTPStatus.SERVICE_UNAVAILABLE
    else:
        state, status = ("degraded" if tasks.faults else "ready"), HTTPStatus.OK
    access = service.access
    if access.book is not None and not is_admin():
        return status, {"status": state}
    refused = [{"bundle": entry, "faults": faults} for entry, faults in sorted(tasks.faults.items())]
    body: dict[str, Any] = {
        "status": state,
        "model": service.base_names[0] if service.base_names else None,
        "tasks": dict(sorted(tasks.digests().items())),
        "refused": refused,
    }
    if access.book is not None:
        body["keys_refused"] = access.book.faults
    return status, body


async def _models(request: Request, service: Service) -> dict[str, Any]:
    models = await list_base_models(request.app.state)
    models["data"] += [_as_model(task, models["data"]) for task in _seen(service)]
    return models


def _seen(service: Service) -> list[ServedTask]:
    """The tasks that the caller may ask, by name."""
    return [task for name, task in sorted(service.tasks.tasks.items()) if may_see(name)]


def _describe(task: ServedTask) -> dict[str, Any]:
    described: dict[str, Any] = {"id": task.name, "object": "task", "digest": task.digest}
    described["on_device"] = task.loader.is_on_device(task.digest)
    manifest = task.bundle.manifest.model_dump(mode="json")
    provenance = manifest.pop("provenance")
    described |= manifest
    described["provenance"] = {key: provenance[key] for key in _PROVENANCE}
    return described


def _as_model(task: ServedTask, base_cards: list[dict[str, Any]]) -> dict[str, Any]:
    base = base_cards[0]
    name = base["id"]
    return {**base, "id": f"{name}:{task.name}", "root": name, "parent": name, "digest": task.digest}


def _headers(task: ServedTask) -> dict[str, str]:
    return {TASK_HEADER: task.name, DIGEST_HEADER: task.digest}


def _draw(bundle: Bundle) -> bytes:
    png = io.BytesIO()
    preview(bundle).save(png, "PNG")
    return png.getvalue()
