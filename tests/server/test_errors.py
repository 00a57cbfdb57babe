"""A status for every error of the tree, decided from its class."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import prompts.errors
from prompts.errors import (
    BundleError,
    CapacityError,
    InputError,
    InternalError,
    NoFrameError,
    OverloadedError,
    PassepartoutError,
    PictureError,
    TaskConflictError,
    TaskNotFoundError,
)
from server.errors import error_response, status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TaskNotFoundError("a", []), 404),
        (NoFrameError("a"), 404),
        (TaskConflictError({"x": "a", "y": "b"}), 400),
        (PictureError("no picture"), 400),
        (BundleError(Path("a"), ["bad"]), 400),
        (CapacityError("full"), 503),
        (PassepartoutError("?"), 500),
    ],
)
def test_the_nearest_class_decides(error: PassepartoutError, status: int) -> None:
    assert status_of(error) == status


def test_what_may_do_later_says_when_to_ask_again() -> None:
    assert error_response(CapacityError("full")).headers["Retry-After"] == "1"
    assert error_response(OverloadedError("full", 7.2)).headers["Retry-After"] == "8"
    assert "Retry-After" not in error_response(PictureError("no picture")).headers


def test_every_class_has_a_status() -> None:
    def below(kind: type[PassepartoutError]) -> Iterator[type[PassepartoutError]]:
        yield kind
        for one in kind.__subclasses__():
            yield from below(one)

    ours = [kind for kind in below(PassepartoutError) if kind.__module__ == prompts.errors.__name__]
    assert len(ours) >= 15
    for kind in ours:
        status = status_of(kind.__new__(kind))
        assert issubclass(kind, InternalError) == (status >= 500) or kind is PassepartoutError
        assert issubclass(kind, InputError) == (status < 500)


def test_the_body_is_openais_error_object() -> None:
    response = error_response(TaskNotFoundError("a", ["b"]))
    assert json.loads(bytes(response.body))["error"] | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "task",
        "code": "task_not_found",
    }


def test_our_own_faults_are_the_servers() -> None:
    error = json.loads(bytes(error_response(CapacityError("full")).body))["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "capacity", None)
