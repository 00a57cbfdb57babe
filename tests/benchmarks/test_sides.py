"""Sides of the questions about training: processes of their own, asked together."""

from functools import partial

import pytest

from benchmarks.sides import Side, Step, check_losses, memory_figure, rates_of
from training.ranks import ranks_here


def counting(ends_after: int) -> Step:
    """A step whose loss is the sum of every process's number of steps; it fails after `ends_after`."""
    made = 0

    def step() -> float:
        nonlocal made
        made += 1
        if made > ends_after:
            raise SystemExit(0)
        return ranks_here().total(made)

    return step


def test_a_sides_processes_are_asked_together_and_their_end_is_noticed() -> None:
    with Side(partial(counting, 6), processes=2) as side:
        assert side.losses(3) == [2.0, 4.0, 6.0]
        assert rates_of({"both": side}, 2)["both"](1) > 0
        assert side.losses(1) == [12.0]
        assert side.peak() > 2 * 10**7
        with pytest.raises(RuntimeError, match="process ended"):
            side.rate(1)


def test_sides_that_learn_something_else_are_not_compared() -> None:
    said: list[str] = []
    check_losses({"ours": [1.0, 0.5], "theirs": [1.01, 0.7]}, said.append)
    assert said == ["first losses: ours 1.0000 · theirs 1.0100"]
    for other in (1.03, float("nan")):
        with pytest.raises(RuntimeError, match="same loss"):
            check_losses({"ours": [1.0], "theirs": [other]}, said.append)


def test_memory_is_told_as_a_ratio_and_in_megabytes() -> None:
    figure = memory_figure("memory", 3_000_000_000, 2_000_000_000, 1.0)
    assert (figure.shown, figure.verdict) == ("1.50 (3,000 over 2,000 MB)", "met")
