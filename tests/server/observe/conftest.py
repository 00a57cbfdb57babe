"""The fake server with keys, asked in its own process; what it logs, and its spans in memory."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from prompts.store import StoreReader, StoreScan
from server.observe.spans import Tracing
from tests.server.access.guarded import Guarded
from tests.server.access.test_keys import entry, write


@pytest.fixture(scope="module")
def scan(store: Path) -> StoreScan:
    return StoreReader(store).scan()


@pytest.fixture
def guarded(scan: StoreScan, tmp_path: Path) -> Guarded:
    """A server whose keys may ask everything, nothing but `plain`, and once a minute."""
    keys = [entry("all", tasks=["*"], base=True), entry("one", tasks=["plain"])]
    keys.append(entry("slow", base=True, requests_per_minute=1))
    return Guarded(scan, write(tmp_path / "keys.yaml", *keys))


class Lines(logging.Handler):
    """The records of our access log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def fields(self, index: int = -1) -> dict[str, Any]:
        """What a line says beside its message."""
        plain = {*vars(logging.makeLogRecord({})), "message", "asctime"}  # the last two by formatters
        return {name: value for name, value in vars(self.records[index]).items() if name not in plain}


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("vllm.passepartout.access"), Lines()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def spans(guarded: Guarded) -> InMemorySpanExporter:
    """Where the server's spans are put."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    guarded.server.service.tracing = Tracing(provider.get_tracer("test"))
    return exporter
