"""Which path is for whom, by the bytes that came: no other way to write a path leads past the table."""

from urllib.parse import unquote

import pytest

from server.access.policy import ROUTE_LEVELS, Level, canonical_path, find_level, needs_store
from server.surface import ROUTES, WITHOUT_TASK


def scope(raw: str, root: str = "") -> dict[str, object]:
    """A request as uvicorn hands it on."""
    path = unquote(raw.partition("?")[0], errors="surrogateescape")
    return {
        "type": "http",
        "path": root + path,
        "raw_path": (root + raw.partition("?")[0]).encode(),
        "root_path": root,
    }


@pytest.mark.parametrize(
    ("method", "path", "level"),
    [
        ("GET", "/", Level.PUBLIC),
        ("GET", "/page/app.js", Level.PUBLIC),
        ("GET", "/page/fonts/a.woff2", Level.PUBLIC),
        ("HEAD", "/health", Level.PUBLIC),
        ("POST", "/ping", Level.PUBLIC),
        ("GET", "/metrics", Level.METRICS),
        ("POST", "/v1/chat/completions", Level.USER),
        ("OPTIONS", "/v1/chat/completions", Level.USER),
        (None, "/v1/realtime", Level.USER),
        ("GET", "/v1/models/base:category", Level.USER),
        ("GET", "/v1/tasks/category", Level.USER),
        ("PUT", "/v1/tasks/category", Level.ADMIN),
        ("DELETE", "/v1/tasks/category", Level.ADMIN),
        ("POST", "/v1/tasks", Level.ADMIN),
        ("POST", "/v1/load_lora_adapter", Level.ADMIN),
        ("DELETE", "/adapters/x", Level.ADMIN),
        ("GET", "/server_info", Level.ADMIN),
        ("GET", "/metricsx", None),
        ("GET", "/metrics/x", None),
        ("GET", "/page", None),
        ("GET", "/V1/models", None),
        ("GET", "/v1/tasks/a/b", None),
        ("GET", "/nosuch", None),
        ("GET", "/static", None),
    ],
)
def test_a_path_has_one_level(method: str | None, path: str, level: Level | None) -> None:
    assert find_level(path, method) is level


@pytest.mark.parametrize(
    "raw",
    [
        "/v1%2Fmodels",
        "/%761/models",
        "/collective%5Frpc",
        "/health%2F..%2Fcollective_rpc",
        "/health/../collective_rpc",
        "/./collective_rpc",
        "//collective_rpc",
        "/v1//models",
        "/v1/models/",
        "/health/",
        "/health;x",
        "/health\\..\\sleep",
        "/v1/tasks/%00",
        "/v1/tasks/a%0Ab",
        "/v1/tasks/ä",
        "/v1/models%20",
        "/..",
        "",
        "health",
        "*",
    ],
)
def test_a_path_written_in_another_way_is_nobodys(raw: str) -> None:
    assert canonical_path(scope(raw)) is None


@pytest.mark.parametrize(
    "raw", ["/", "/health", "/health?a=%2F..//", "/v1/tasks/a.b-c_d", "/v1/models/base:a"]
)
def test_a_plain_path_is_itself(raw: str) -> None:
    assert canonical_path(scope(raw)) == raw.partition("?")[0]


def test_behind_a_proxy_the_path_is_read_as_the_router_reads_it() -> None:
    assert canonical_path(scope("/v1/models", root="/api")) == "/v1/models"
    assert canonical_path(scope("/", root="/api")) == "/"
    for raw in ("//", "/v1/models/", "/..", "/%2e"):
        assert canonical_path(scope(raw, root="/api")) is None
    bare = scope("/v1/models") | {"root_path": "/api"}
    assert canonical_path(bare) == "/v1/models"
    assert canonical_path(scope("/health") | {"root_path": "/v1"}) == "/health"


def test_a_scope_whose_two_paths_differ_is_nobodys() -> None:
    assert canonical_path(scope("/health") | {"path": "/collective_rpc"}) is None


def test_stored_responses_are_known_by_their_path() -> None:
    assert needs_store("/v1/responses/resp_1")
    assert needs_store("/v1/responses/resp_1/cancel")
    assert not needs_store("/v1/responses")


def test_every_route_that_the_server_knows_of_is_listed() -> None:
    assert {*ROUTES, *WITHOUT_TASK} - ROUTE_LEVELS.keys() == set()


@pytest.mark.parametrize(
    "path",
    ["/collective_rpc", "/update_weights", "/sleep", "/pause", "/start_profile", "/v1/load_lora_adapter"],
)
def test_what_ends_or_changes_the_engine_is_for_admins(path: str) -> None:
    assert find_level(path, "POST") is Level.ADMIN
