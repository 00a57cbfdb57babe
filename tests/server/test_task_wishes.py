"""What an admin wishes: told by the field that came where it is none; the same traffic anew is no step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import InputError
from prompts.routing import read_routing
from server.audit import open_audit
from server.task_wishes import read_wish
from tests.server.access.guarded import code
from tests.server.test_task_changes import Desk

ROLLBACK = "POST", "/v1/tasks/lines/rollback"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield Desk(tmp_path)
    open_audit(None)


@pytest.mark.parametrize(
    ("body", "field", "cure"),
    [
        ({"digest": "d1ff"}, "digest: expected one of 1 (", "six digits or more"),
        ({"version": "9"}, "version: expected one of 1 (", "by its digest where labels are the same"),
        ({"traffic": {"9": 1}}, "traffic: expected one of 1 (", "by its digest"),
    ],
)
def test_a_version_that_is_none_is_told_by_the_field_that_came(
    desk: Desk, body: dict[str, Any], field: str, cure: str
) -> None:
    said = desk.put(**body).json()["error"]["message"]
    assert said.startswith(field)
    assert cure in said


def test_a_body_that_is_no_json_is_the_thing_to_correct() -> None:
    with pytest.raises(InputError, match=r"expected valid JSON, .*; correct the body"):
        read_wish(b"{")


def test_weights_that_come_to_the_same_parts_are_no_step(desk: Desk) -> None:
    one, two = desk.one.digest, desk.two.digest
    for same in ({one: 7}, {one: 1}, {one: 50, two: 0}):
        assert desk.put(traffic=same).status_code == 200
        assert [share.digest for share in read_routing(desk.store).tasks["lines"].shares] == [one]
    assert code(desk.ask(*ROLLBACK)) == (404, "version_not_found")
    desk.put(traffic={one: 3, two: 1})
    assert desk.put(traffic={one: 75, two: 25}).json()["traffic"][0]["share"] == 0.75
    assert len(read_routing(desk.store).tasks["lines"].before) == 1
    desk.put(traffic={one: 1, two: 3})
    shares = [[share["share"] for share in desk.ask(*ROLLBACK).json()["traffic"]] for _ in range(2)]
    assert shares == [[0.75, 0.25], [1.0]]
