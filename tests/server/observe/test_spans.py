"""Spans: child of the client's, parent of vLLM's; what they say; that they leave over OTLP."""

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.observe.spans import Tracing
from tests.server.access.guarded import CHAT, QUESTION, Guarded
from tests.server.observe.collector import attributes, collecting
from tests.server.observe.conftest import Lines
from tests.server.observe.test_access_log import PARENT, ask_with

TRACE, PARENT_SPAN = PARENT.split("-")[1:3]


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    found = spans.get_finished_spans()
    assert len(found) == 1
    return found[0]


def test_a_span_says_what_served(guarded: Guarded, spans: InMemorySpanExporter) -> None:
    answer = guarded.ask("all", task="plain", stream=True)
    span = only(spans)
    assert (span.name, span.kind, span.parent) == (f"POST {CHAT}", SpanKind.SERVER, None)
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "gen_ai.response.model": "base",
        "gen_ai.usage.prompt_tokens": 5,
        "gen_ai.usage.completion_tokens": 3,
        "passepartout.cached_tokens": 4,
        "passepartout.request_id": answer.headers["X-Request-Id"],
        "passepartout.key": "all",
        "passepartout.task": "plain",
        "passepartout.digest": answer.headers["X-Task-Digest"],
    }


@pytest.mark.parametrize(
    ("key", "body", "code", "status"),
    [
        ("all", {"task": "nosuch"}, "task_not_found", StatusCode.UNSET),
        (None, {}, "invalid_api_key", StatusCode.UNSET),
        ("all", {"explode": 1}, "internal_error", StatusCode.ERROR),
    ],
)
def test_an_error_has_its_code_and_ours_are_marked(
    guarded: Guarded,
    spans: InMemorySpanExporter,
    key: str | None,
    body: dict[str, object],
    code: str,
    status: StatusCode,
) -> None:
    guarded.ask(key, **body)
    span = only(spans)
    assert (span.attributes or {})["error.type"] == code
    assert span.status.status_code == status


def test_it_is_the_child_of_the_clients_and_the_parent_of_vllms(
    guarded: Guarded, spans: InMemorySpanExporter, lines: Lines
) -> None:
    """vLLM reads the headers of the request: there our span stands in the place of the client's."""
    seen: list[dict[str, str]] = []

    async def embeddings(request: Request) -> JSONResponse:
        seen.append(dict(request.headers))
        return JSONResponse({})

    route = next(one for one in guarded.server.app.routes if getattr(one, "path", "") == "/v1/embeddings")
    guarded.server.app.routes.remove(route)
    guarded.server.app.add_route("/v1/embeddings", embeddings, methods=["POST"])
    headers = {"Authorization": "Bearer key-of-all", "traceparent": PARENT, "tracestate": "a=b"}
    guarded.run(lambda client: client.post("/v1/embeddings", json=QUESTION, headers=headers))
    span = only(spans)
    assert span.parent is not None
    assert span.context is not None
    ours = format_span_id(span.context.span_id)
    assert (format_trace_id(span.parent.trace_id), format_span_id(span.parent.span_id)) == (
        TRACE,
        PARENT_SPAN,
    )
    assert ours != PARENT_SPAN
    assert seen[0]["traceparent"] == f"00-{TRACE}-{ours}-01"
    assert seen[0]["tracestate"] == "a=b"
    assert lines.fields()["trace_id"] == TRACE
    assert seen[0]["x-request-id"] == lines.fields()["request_id"]


def test_what_the_client_does_not_record_is_not_recorded(
    guarded: Guarded, spans: InMemorySpanExporter
) -> None:
    ask_with(guarded, {"traceparent": PARENT.removesuffix("01") + "00"})
    assert spans.get_finished_spans() == ()


def test_probes_and_unknown_paths_have_none(guarded: Guarded, spans: InMemorySpanExporter) -> None:
    for path in ("/ready", "/nothing/here"):
        guarded.get("all", path)
    assert spans.get_finished_spans() == ()
    guarded.get("all", "/v1/tasks/plain")
    assert only(spans).name == "GET /v1/tasks/{name}"


def test_a_sampler_that_takes_nothing_still_hands_the_trace_on(guarded: Guarded, lines: Lines) -> None:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    guarded.server.service.tracing = Tracing(provider.get_tracer("test"))
    assert guarded.ask("all").status_code == 200
    assert len(lines.fields()["trace_id"]) == 32


def test_spans_leave_over_otlp(guarded: Guarded) -> None:
    provider = TracerProvider()
    with collecting() as collector:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector.url)))
        guarded.server.service.tracing = Tracing(provider.get_tracer("test"))
        guarded.ask("all", task="plain")
        provider.shutdown()
    assert collector.paths == ["/v1/traces"]
    [span] = collector.spans
    assert (span.name, attributes(span)["passepartout.task"]) == (f"POST {CHAT}", "plain")
