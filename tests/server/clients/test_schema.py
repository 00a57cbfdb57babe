"""schemathesis asks our own routes what their OpenAPI document allows, and what not: no answer is a 5xx."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from server.audit import open_audit
from tests.server.conftest import Site, listening
from tests.server.test_task_changes import Desk

OURS = r"^/(ready|v1/models|v1/tasks)(/|$)"
ADMIN = {"Authorization": "Bearer key-of-boss"}
CHANGES = {
    ("PUT", "/v1/tasks/{name}"),
    ("POST", "/v1/tasks/{name}/rollback"),
    ("DELETE", "/v1/tasks/{name}"),
}
FIXED = settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with keys, so that there are admins, on a store of two versions of `lines`."""
    desk = Desk(tmp_path_factory.mktemp("schema"))
    with listening(desk.server) as found:
        yield found
    open_audit(None)


@pytest.fixture(scope="module")
def operations(keyed: Site) -> list[schemathesis.APIOperation]:
    api = schemathesis.openapi.from_url(f"{keyed.url}/openapi.json", headers=ADMIN).include(path_regex=OURS)
    return [one.ok() for one in api.get_all_operations()]


def test_discovery_finds_the_routes(operations: list[schemathesis.APIOperation]) -> None:
    found = {(one.method.upper(), one.path) for one in operations}
    read = {"/ready", "/v1/models", "/v1/models/{name}", "/v1/tasks", "/v1/tasks/{name}/versions"}
    assert {("GET", path) for path in read} | CHANGES <= found
    wish = next(one for one in operations if (one.method, one.path) == ("put", "/v1/tasks/{name}"))
    assert {"version", "digest", "traffic"} == set(wish.body[0].definition["schema"]["properties"])


def test_no_answer_is_a_server_error(operations: list[schemathesis.APIOperation]) -> None:
    answered = set()
    for operation in operations:

        @given(case=operation.as_strategy(), names_it=st.booleans())
        @FIXED
        def ask(case: schemathesis.Case, names_it: bool) -> None:
            if names_it and "name" in case.path_parameters:
                case.path_parameters["name"] = "lines"
            answer = case.call_and_validate(headers=ADMIN, checks=[not_a_server_error])
            answered.add((case.method, case.path, answer.status_code))

        ask()
    assert {(method, path, 404) for method, path in CHANGES} <= answered
    reached = {("PUT", "/v1/tasks/{name}", 400), ("DELETE", "/v1/tasks/{name}", 200)}
    assert reached <= answered
