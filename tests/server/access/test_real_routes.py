"""Every route that vLLM can have stands in the table of who may ask it."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Mount

from server.access.policy import ROUTE_LEVELS, Level, find_level
from server.app import attach
from server.cli import add_options
from server.service import Service
from server.vllm_cli import parse

pytestmark = pytest.mark.engine

_TASKS = ("generate", "render", "transcription", "realtime", "embed", "classify", "token_embed")
_SWITCHES = ("--enable-scale-out", "--enable-offline-docs", "--enable-tokenizer-info-endpoint")
_BY_MODEL = (
    "vllm.entrypoints.pooling.pooling.api_router",
    "vllm.entrypoints.pooling.classify.api_router",
    "vllm.entrypoints.pooling.embed.api_router",
    "vllm.entrypoints.pooling.scoring.api_router",
    "vllm.entrypoints.serve.profile.api_router",
)
"""Routers that vLLM attaches by what the model or its profiler is."""
_OF_COHERE = {"/cohere/v2/chat", "/cohere/v2/chat/render"}
"""Attached where Cohere's package is installed, which this project's is not."""


def routes_of(app: Any) -> Iterator[tuple[str, str | None]]:
    """Each (path, method) of an app or a router; a WebSocket has no method."""
    for route in app.routes:
        path, methods = getattr(route, "path", None), getattr(route, "methods", None)
        if isinstance(route, Mount):
            yield (route.path if route.path == "/metrics" else route.path + "/{file:path}"), "GET"
        elif path is not None:
            yield from ((path, method) for method in methods or [None])
        else:  # FastAPI's included routers
            yield from routes_of(route.original_router)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str | None]]:
    """The routes of vLLM's own app with everything switched on, and ours."""
    from vllm.entrypoints.launchers.app import build_app

    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        patch.setenv("VLLM_PLUGINS", "")
        options = ["--model", "m", "--tasks", str(folder), *_SWITCHES]
        args = parse(options, prog="passepartout serve", add_options=add_options)
        args.enable_fault_tolerance = True
        app: FastAPI = build_app(args, _TASKS, None)  # type: ignore[arg-type]
    attach(app, Service(registry=CollectorRegistry()))
    apps = [app, *(import_module(name).router for name in _BY_MODEL), FastAPI()]
    return {one for app in apps for one in routes_of(app)}


def test_no_route_of_vllms_is_unlisted(found: set[tuple[str, str | None]]) -> None:
    assert len(found) > 70
    for path in (
        "/invocations",
        "/pause",
        "/update_weights",
        "/pooling",
        "/collective_rpc",
        "/sleep",
        "/metrics",
    ):
        assert path in {known for known, _ in found}
    assert {path for path, _ in found} - ROUTE_LEVELS.keys() == set()


def test_no_listed_route_is_out_of_date(found: set[tuple[str, str | None]]) -> None:
    assert ROUTE_LEVELS.keys() - {path for path, _ in found} - _OF_COHERE == set()


def test_what_the_router_would_match_is_what_the_table_says(found: set[tuple[str, str | None]]) -> None:
    for path, method in found:
        asked = re.sub(r"\{\w+:path\}", "a.js", path)
        asked = "/".join("x" if part.startswith("{") else part for part in asked.split("/"))
        is_change = path.startswith("/v1/tasks") and method not in ("GET", "HEAD")
        assert find_level(asked, method) is (Level.ADMIN if is_change else ROUTE_LEVELS[path])
