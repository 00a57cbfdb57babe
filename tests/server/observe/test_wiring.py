"""From the options to what is logged and traced; around what of vLLM's it stands."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from starlette.middleware.cors import CORSMiddleware

from server.app import fill_observation, put_outermost
from tests.server.access.guarded import CHAT, Guarded
from tests.server.observe.conftest import Lines


def engine_config(endpoint: str | None) -> Any:
    return SimpleNamespace(observability_config=SimpleNamespace(otlp_traces_endpoint=endpoint))


def test_the_options_fill_it(guarded: Guarded) -> None:
    service, before = guarded.server.service, guarded.server.service.tracing
    args = Namespace(has_access_log=False, disable_access_log_for_endpoints="/ready, /health,")
    fill_observation(service, args, engine_config(None))
    assert service.tracing is before
    assert (service.has_access_log, service.quiet_routes) == (False, {"/ready", "/health"})


def test_spans_go_to_the_provider_that_vllm_set(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("server.app.get_tracer", lambda name: asked.append(name) or trace.NoOpTracer())
    before = guarded.server.service.tracing
    args = Namespace(disable_access_log_for_endpoints=None)
    fill_observation(guarded.server.service, args, engine_config("http://collector:4317"))
    assert asked == ["passepartout"]
    assert guarded.server.service.tracing is not before
    assert guarded.server.service.quiet_routes == frozenset()


def test_what_vllms_middleware_answers_has_a_line_too(guarded: Guarded, lines: Lines) -> None:
    """vLLM adds its own around that of plugins; here CORS, which answers a browser's preflight itself."""
    app = guarded.server.app
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    put_outermost(app)
    headers = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    answer: httpx.Response = guarded.run(lambda client: client.options(CHAT, headers=headers))
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Request-Id"] == lines.fields()["request_id"]
    assert (lines.fields()["method"], lines.fields()["route"]) == ("OPTIONS", CHAT)
