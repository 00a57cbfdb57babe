"""schemathesis asks our own routes what their OpenAPI document allows, and what not: no answer is a 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from tests.server.conftest import Site

OURS = r"^/(ready|v1/models|v1/tasks)(/|$)"
ALWAYS_THE_SAME = settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def operations(site: Site) -> list[schemathesis.APIOperation]:
    api = schemathesis.openapi.from_asgi("/openapi.json", site.server.app).include(path_regex=OURS)
    return [one.ok() for one in api.get_all_operations()]


def test_discovery_finds_the_routes(operations: list[schemathesis.APIOperation]) -> None:
    paths = {one.path for one in operations}
    assert {"/ready", "/v1/models", "/v1/models/{name}", "/v1/tasks", "/v1/tasks/{name}"} <= paths


def test_no_answer_is_a_server_error(operations: list[schemathesis.APIOperation]) -> None:
    asked = []
    for operation in operations:

        @given(case=operation.as_strategy())
        @ALWAYS_THE_SAME
        def ask(case: schemathesis.Case) -> None:
            asked.append(case.path)
            case.call_and_validate(checks=[not_a_server_error])

        ask()
    assert len(asked) > 30
