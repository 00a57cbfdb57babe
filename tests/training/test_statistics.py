"""Wilson's interval against published values; the learning rate against its formula."""

import math

import pytest

from training.schedule import cosine_rate
from training.statistics import score

# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
# table I, method 3 (Wilson's score without continuity correction): (right, n, low, high).
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("right", "n", "low", "high"), NEWCOMBE)
def test_wilson_as_published(right: int, n: int, low: float, high: float) -> None:
    found = score([True] * right + [False] * (n - right))
    assert (found.n, found.accuracy) == (n, right / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_all_right_ends_at_one() -> None:
    found = score([True] * 10)
    assert (found.accuracy, found.high) == (1.0, pytest.approx(1.0))
    assert found.high <= 1.0
    assert str(found) == "100 % [72–100]"


def test_the_rate_rises_to_its_peak_and_falls_by_a_cosine() -> None:
    rates = [cosine_rate(step, steps=10, warmup=0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5 * (1 + math.cos(math.pi * 4 / 8)))
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_no_warm_up_starts_at_the_peak_and_all_warm_up_ends_at_it() -> None:
    assert cosine_rate(0, steps=3, warmup=0.0) == 1.0
    assert cosine_rate(2, steps=3, warmup=1.0) == 1.0
