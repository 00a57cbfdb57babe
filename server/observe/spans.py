"""OpenTelemetry: one span for each request, child of the client's, parent of vLLM's.

The context comes and goes as W3C says, in `traceparent` and `tracestate`. vLLM 0.32 reads these headers of
the request on every route that generates, carries them through the engine, and makes its span `llm_request`
under them: so ours are put in their place. Where spans go is vLLM's affair: `AsyncLLM` sets OpenTelemetry's
provider when it has an endpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from server.access.policy import ROUTE_LEVELS, Level
from server.observe.record import Record

__all__ = ["NAME", "Tracing"]

NAME = "passepartout"

_W3C = TraceContextTextMapPropagator()
_HEADERS = ("traceparent", "tracestate")
_TRACED = (Level.USER, Level.ADMIN)
_SERVER_FAULT = 500


class Tracing:
    """`tracer`: None where nobody collects; the client's trace id is noted all the same."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @contextmanager
    def request(self, record: Record, scope: Scope) -> Iterator[None]:
        """A span around a request, told from its `record` at the end; probes and unknown paths have none."""
        headers = Headers(scope=scope)
        context = _W3C.extract({name: headers[name] for name in _HEADERS if name in headers})
        record.trace_id = _trace_id(trace.get_current_span(context))
        if self._tracer is None or ROUTE_LEVELS.get(record.route) not in _TRACED:
            yield
            return
        name = f"{record.method} {record.route}"
        span = self._tracer.start_span(name, context=context, kind=SpanKind.SERVER)
        record.trace_id = _trace_id(span)
        _hand_on(span, scope)
        try:
            yield
        finally:
            _describe(span, record)
            span.end()


def _trace_id(span: Span) -> str | None:
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _hand_on(span: Span, scope: Scope) -> None:
    """Put the span into the request's headers, in the place of what came."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    headers = MutableHeaders(scope=scope)
    for name in _HEADERS:
        del headers[name]
    headers.update(carrier)


def _describe(span: Span, record: Record) -> None:
    """OpenTelemetry's names where it has one; those of tokens as vLLM's span has them."""
    known = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "error.type": record.error_code,
        "gen_ai.response.model": record.model,
        "gen_ai.usage.prompt_tokens": record.prompt_tokens or None,
        "gen_ai.usage.completion_tokens": record.completion_tokens or None,
        "passepartout.cached_tokens": record.cached_tokens or None,
        "passepartout.request_id": record.request_id,
        "passepartout.key": record.key,
        "passepartout.task": record.task,
        "passepartout.digest": record.digest,
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    if record.status is None or record.status >= _SERVER_FAULT:
        span.set_status(StatusCode.ERROR)
