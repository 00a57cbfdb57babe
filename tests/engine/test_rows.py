"""Rows of the bank: any length, first fit, given back whole."""

import pytest

from prompts.errors import CapacityError
from server.engine.rows import RowAllocator


def test_rows_are_handed_out_first_fit_and_joined_again() -> None:
    rows = RowAllocator("text_rows", first=1, capacity=10)
    starts = [rows.allocate(length) for length in (3, 4, 3)]
    assert starts == [1, 4, 8]
    rows.release(4, 4)
    assert rows.allocate(2) == 4
    rows.release(1, 3)
    assert rows.free_rows == 5
    rows.release(4, 2)
    assert rows.allocate(7) == 1
    assert rows.free_rows == 0


def test_no_rows_are_needed_for_nothing() -> None:
    rows = RowAllocator("text_rows", first=1, capacity=0)
    assert rows.allocate(0) == 0
    rows.release(0, 0)
    assert rows.free_rows == 0


def test_a_run_too_short_is_refused_and_nothing_changes() -> None:
    rows = RowAllocator("vision_rows", first=1, capacity=6)
    rows.allocate(2)
    rows.allocate(2)
    rows.release(1, 2)
    message = r"vision_rows: 3 rows in a run are needed, 4 of 6 are free \(longest run 2\)"
    with pytest.raises(CapacityError, match=message):
        rows.allocate(3)
    assert rows.free_rows == 4
