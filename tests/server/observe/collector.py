"""A stand-in for an OpenTelemetry collector: takes spans over OTLP/HTTP on a local socket."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Collector", "attributes", "collecting"]


@dataclass
class Collector:
    """`url`: where spans go; `paths`: where they went; `spans`: as they came."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def find(self, wanted: Callable[[Span], bool], seconds: float = 30) -> Span:
        """The first span that is wanted, once it has come."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for span in list(self.spans):
                if wanted(span):
                    return span
            time.sleep(0.1)
        raise AssertionError(f"no such span among {[one.name for one in self.spans]}")


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listens while this is open."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.paths.append(self.path)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found.spans += scope.spans
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def attributes(span: Span) -> dict[str, object]:
    """What a span says, by name."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}
