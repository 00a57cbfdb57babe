"""Keys of every kind, and the fake server with and without them."""

from pathlib import Path

import pytest

from prompts.store import StoreReader, StoreScan
from tests.server.access.guarded import Guarded
from tests.server.access.test_keys import entry, write


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("keys") / "keys.yaml",
        entry("boss", admin=True),
        entry("all", tasks=["*"], base=True, cache_group="shared"),
        entry("more", tasks=["*"], base=True, cache_group="shared"),
        entry("one", tasks=["plain", "nosuch"]),
        entry("scraper", metrics=True),
        entry("slow", base=True, requests_per_minute=2, tokens_per_minute=100, concurrency=1),
        entry("poor", base=True, tokens_per_minute=10),
        entry("free", base=True, tasks=["*"], allow=["cache_salt", "chat_template", "uuid", "priority"]),
    )


@pytest.fixture(scope="module")
def scan(store: Path) -> StoreScan:
    """Read once: what the tests are about is not the store."""
    return StoreReader(store).scan()


@pytest.fixture
def guarded(scan: StoreScan, keys: Path) -> Guarded:
    return Guarded(scan, keys)


@pytest.fixture
def unguarded(scan: StoreScan) -> Guarded:
    return Guarded(scan, None)
