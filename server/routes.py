"""Our own routes: readiness, and the model list with tasks in it; the tasks API is `server.task_routes`.

| route | answers |
|---|---|
| `GET /v1/models`                   | vLLM's list and one `base:task` per task, with `parent` |
| `GET /v1/models/{id}`              | one of them; 404 `model_not_found` |
| `GET /ready`                       | see `ready` |
"""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from prompts.errors import ModelNotFoundError, PassepartoutError
from prompts.faults import fault, shown
from server.access.caller import CURRENT_CALLER, is_admin, may_see
from server.errors import error_response
from server.served import ServedTask
from server.service import Service
from server.task_routes import add_task_routes, seen_tasks
from server.vllm_models import list_base_models

__all__ = ["add_routes"]


def add_routes(app: FastAPI, service: Service) -> None:
    """Put our routes and the answer to our errors on `app`."""
    router = APIRouter(tags=["tasks"])

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
        up, some bundles are refused, each listed with its faults, or the source of the store is away; the
        good ones serve, so a load balancer keeps the server. 503 `no_tasks`: every bundle of the store is
        refused. 503 `starting` or `engine_down`: nothing is answered; `draining`: what is under way is, and
        then the server stops. With keys, see `_details` for who is told what.
        """
        status, body = await _readiness(service)
        return JSONResponse(body, status_code=status)

    app.include_router(router)
    add_task_routes(app, service)

    @app.exception_handler(PassepartoutError)
    async def answer_error(request: Request, error: PassepartoutError) -> Response:
        return error_response(error, path=request.url.path)


async def _readiness(service: Service) -> tuple[HTTPStatus, dict[str, Any]]:
    tasks, source = service.tasks, service.source
    if not tasks.loaded:
        state, status = "starting", HTTPStatus.SERVICE_UNAVAILABLE
    elif service.access.gate.is_closed:
        state, status = "draining", HTTPStatus.SERVICE_UNAVAILABLE
    elif not await service.engine_is_healthy():
        state, status = "engine_down", HTTPStatus.SERVICE_UNAVAILABLE
    elif tasks.faults and not tasks.tasks:
        state, status = "no_tasks", HTTPStatus.SERVICE_UNAVAILABLE
    else:
        is_whole = not tasks.faults and (source is None or not (source.is_away or source.refused))
        state, status = ("ready" if is_whole else "degraded"), HTTPStatus.OK
    return status, {"status": state, **_details(service)}


def _details(service: Service) -> dict[str, Any]:
    """What the caller may know of what serves: with keys, nothing without one; faults for admins."""
    book = service.access.book
    if book is not None and CURRENT_CALLER.get() is None:
        return {}
    digests = sorted(service.tasks.digests().items())
    details: dict[str, Any] = {
        "model": service.base_names[0] if service.base_names else None,
        "tasks": {name: digest for name, digest in digests if may_see(name)},
    }
    if book is None or is_admin():
        faults = sorted(service.tasks.faults.items())
        details["refused"] = [{"bundle": entry, "faults": found} for entry, found in faults]
        if (source := service.source) is not None:
            status = "away" if source.is_away else "read"
            told = {"status": status, "refused": source.refused, "not_named_by_lock": source.unnamed}
            details["source"] = told
    if book is not None and is_admin():
        details["keys_refused"] = book.faults
    return details


async def _models(request: Request, service: Service) -> dict[str, Any]:
    models = await list_base_models(request.app.state)
    models["data"] += [_as_model(task, models["data"]) for task in seen_tasks(service)]
    return models


def _as_model(task: ServedTask, base_cards: list[dict[str, Any]]) -> dict[str, Any]:
    base = base_cards[0]
    name = base["id"]
    return {**base, "id": f"{name}:{task.name}", "root": name, "parent": name, "digest": task.digest}
