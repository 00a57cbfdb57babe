"""The tasks API's routes: what serves, which versions there are, and how that is changed (docs/tasks-api.md).

| route | answers |
|---|---|
| `GET /v1/tasks`                    | `{"object": "list", "data": [task, …]}`, by name; filters |
| `GET /v1/tasks/{name}`             | one task; 404 `task_not_found` |
| `GET /v1/tasks/{name}/preview.png` | its frame around a grey picture; 404 `task_has_no_frame` |
| `GET /v1/tasks/{name}/versions`    | every version installed, whether it serves or waits |
| `PUT /v1/tasks/{name}`             | a version activated, or traffic split; admins |
| `POST /v1/tasks/{name}/rollback`   | what served before serves again; admins |
| `DELETE /v1/tasks/{name}`          | the task is served no more, its files stay; admins |
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from prompts.bundle import Bundle
from prompts.errors import (
    InternalError,
    OverloadedError,
    PassepartoutError,
    ReadOnlyStoreError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from prompts.faults import fault
from prompts.routing import Share
from server.access.caller import may_see, not_found, require_task
from server.audit import Change, audit
from server.describe import FILTERS, describe, describe_version, keep_asked
from server.middleware import DIGEST_HEADER
from server.previews import Previews
from server.resolve import TASK_HEADER
from server.served import ServedTask
from server.service import Service
from server.task_changes import apply_shares
from server.task_wishes import Wish, etag_of, previous_shares, read_wish, wanted_shares, wished_shares

__all__ = ["add_task_routes", "seen_tasks"]

Shares = tuple[Share, ...]
_START_SECONDS = 5.0
# What is read from the request itself, so that its faults are told as all ours are, for the OpenAPI document.
_FILTERED = {"parameters": [{"name": one, "in": "query", "schema": {"type": "string"}} for one in FILTERS]}
_MATCHED = {"parameters": [{"name": "If-Match", "in": "header", "schema": {"type": "string"}}]}
_WISHED = {**_MATCHED, "requestBody": {"content": {"application/json": {"schema": Wish.model_json_schema()}}}}


def add_task_routes(app: FastAPI, service: Service) -> None:
    """Put the tasks API on `app`; who may ask it is `server.access.policy`'s to say."""
    router = APIRouter(tags=["tasks"])
    _add_reading(router, service)
    _add_changing(router, service)
    app.include_router(router)


def seen_tasks(service: Service) -> list[ServedTask]:
    """The tasks that the caller may ask, by name; of several versions the first."""
    return [task for name, task in sorted(service.tasks.named().items()) if may_see(name)]


def _add_reading(router: APIRouter, service: Service) -> None:
    previews = Previews()

    @router.get("/v1/tasks", openapi_extra=_FILTERED)
    async def list_tasks(request: Request) -> JSONResponse:
        """Every task that requests of this caller may name. Filters: method, on_device, q, prefix."""
        kept = keep_asked(seen_tasks(service), request.query_params)
        data = [describe(task, service.tasks.serving(task.name)) for task in kept]
        return JSONResponse({"object": "list", "data": data})

    @router.get("/v1/tasks/{name}")
    async def show_task(name: str) -> JSONResponse:
        """One task: what its bundle says, what serves it and how much, what its canary came to."""
        require_task(name)
        return _shown(service, name)

    @router.get("/v1/tasks/{name}/preview.png", response_class=Response)
    async def show_preview(name: str, digest: str | None = None) -> Response:
        """The task's frame as people see it, clipped to 8 bits. `digest`: of another version."""
        require_task(name)
        bundle = _first(service, name).bundle if digest is None else _version(service, name, digest)
        png = await previews.png(bundle)
        headers = {TASK_HEADER: name, DIGEST_HEADER: bundle.digest}
        return Response(png, media_type="image/png", headers=headers)

    @router.get("/v1/tasks/{name}/versions")
    async def list_versions(name: str) -> JSONResponse:
        """Every good bundle of that name in the operator's store."""
        require_task(name)
        versions = service.tasks.versions.get(name)
        if not versions:
            raise not_found(name, service.tasks.named())
        shares = wanted_shares(service, name)
        data = [describe_version(one, shares, service.loader) for one in versions]
        listed = {"object": "list", "task": name, "data": data}
        return JSONResponse(listed, headers={"ETag": etag_of(shares)})


def _add_changing(router: APIRouter, service: Service) -> None:
    @router.put("/v1/tasks/{name}", openapi_extra=_WISHED)
    async def put_task(name: str, request: Request) -> JSONResponse:
        """Activate an installed version, or split the traffic between several."""
        wish = read_wish(await request.body())
        event = "task.split" if wish.traffic is not None else "task.activate"
        await _change(service, name, event, request, lambda: wished_shares(service, name, wish))
        return _shown(service, name)

    @router.post("/v1/tasks/{name}/rollback", openapi_extra=_MATCHED)
    async def roll_back(name: str, request: Request) -> JSONResponse:
        """Have what served before the last change serve again."""
        await _change(
            service, name, "task.rollback", request, lambda: previous_shares(service, _store(service), name)
        )
        if not wanted_shares(service, name):
            return JSONResponse(_removed(name))
        return _shown(service, name)

    @router.delete("/v1/tasks/{name}", openapi_extra=_MATCHED)
    async def delete_task(name: str, request: Request) -> JSONResponse:
        """Serve the task no more; its bundles stay in the store, and a PUT or a rollback brings it back."""

        def nothing() -> Shares:
            if not wanted_shares(service, name):
                raise TaskNotFoundError(name, service.tasks.named())
            return ()

        await _change(service, name, "task.delete", request, nothing)
        return JSONResponse(_removed(name))


async def _change(
    service: Service, name: str, event: str, request: Request, wanted: Callable[[], Shares]
) -> None:
    """Change what serves a task to what `wanted` says after a look at the store."""
    change = Change(event=event, task=name)
    before: Shares = ()
    try:
        folder = _store(service)
        await service.look()
        before = wanted_shares(service, name)
        shares = wanted()
        before = await apply_shares(
            service,
            folder,
            name,
            shares,
            if_match=request.headers.get("If-Match"),
            is_rollback=event == "task.rollback",
        )
    except BaseException as error:  # what nobody foresaw, and a server that is stopped, have their line too
        outcome = error.code if isinstance(error, PassepartoutError) else InternalError.code
        audit(change, before, before, outcome=outcome)
        raise
    audit(change, before, shares, outcome="done")


def _shown(service: Service, name: str) -> JSONResponse:
    task = _first(service, name)
    told = {TASK_HEADER: name, DIGEST_HEADER: task.digest, "ETag": etag_of(wanted_shares(service, name))}
    return JSONResponse(describe(task, service.tasks.serving(name)), headers=told)


def _first(service: Service, name: str) -> ServedTask:
    task = service.tasks.named().get(name)
    if task is None:
        raise not_found(name, service.tasks.named())
    return task


def _version(service: Service, name: str, digest: str) -> Bundle:
    for one in service.tasks.versions.get(name, ()):
        if one.digest == digest:
            return one
    cure = f"GET /v1/tasks/{name}/versions lists them"
    raise VersionNotFoundError(fault("digest", expected="of an installed version", came="another", cure=cure))


def _store(service: Service) -> Path:
    if service.store is None:
        raise OverloadedError("the server is starting: ask again", _START_SECONDS)
    if service.source is not None:
        cure = "change routing.json at its source, which every server follows"
        found = fault("store", expected="one of this machine", came="a copy of one elsewhere", cure=cure)
        raise ReadOnlyStoreError(found)
    return service.store


def _removed(name: str) -> dict[str, Any]:
    return {"id": name, "object": "task.deleted", "deleted": True}
