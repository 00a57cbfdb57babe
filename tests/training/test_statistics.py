"""Bootstrap intervals and yes/no measures by hand and by simulation; the learning rate by its formula."""

import math

import numpy as np
import pytest

from training.schedule import cosine_rate
from training.statistics import Gain, mean_gain, paired_gain, score, yes_no

# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
# table I, method 3 (Wilson's score without continuity correction): the upper bound of 0 right of 20.
NEWCOMBE_NONE_OF_20 = 0.1611


def answers(right: int, wrong: int) -> list[bool]:
    return [True] * right + [False] * wrong


def test_the_interval_is_the_binomials() -> None:
    """Of 100 answers, half right: 2.5 % and 97.5 % of a binomial (100, ½) are 40 and 60."""
    found = score(answers(50, 50))
    assert (found.n, found.accuracy) == (100, 0.5)
    assert (found.low, found.high) == pytest.approx((0.40, 0.60), abs=1e-12)
    assert found == score(answers(50, 50)[::-1]), "not from a fixed seed"


def test_two_answers_may_be_anything() -> None:
    found = score([True, False])
    assert (found.low, found.high) == (0.0, 1.0)


def test_all_right_or_all_wrong_is_not_certain() -> None:
    none, every = score(answers(0, 20)), score(answers(20, 0))
    assert (none.low, none.high) == (0.0, pytest.approx(NEWCOMBE_NONE_OF_20, abs=5e-5))
    assert (every.low, every.high) == (pytest.approx(1 - NEWCOMBE_NONE_OF_20, abs=5e-5), 1.0)
    assert str(score(answers(10, 0))) == "100 % [72–100]"


def test_no_answers_have_no_score() -> None:
    with pytest.raises(ValueError, match="came none"):
        score([])


def test_the_accuracys_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    found = [score((rng.random(60) < 0.7).tolist()) for _ in range(300)]
    held = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert 0.91 < held < 0.985, held


def test_a_gain_by_hand() -> None:
    """30 of 100 won and 10 lost: mean 0.2, standard error sqrt((0.4 − 0.04)/100) = 0.06."""
    without = answers(35, 65)
    with_ = answers(25, 10) + answers(30, 35)
    found = paired_gain(with_, without)
    assert (found.n, found.mean) == (100, pytest.approx(0.2))
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * 0.06, 0.2 + 1.96 * 0.06), abs=0.011)
    assert str(paired_gain(without, with_)).startswith("-20.0 points [-3")


def test_no_gain_has_no_sign_of_a_loss() -> None:
    found = Gain(n=3, mean=-1e-9, low=-0.0001, high=0.02)
    assert str(found) == "+0.0 points [-0.0 to +2.0]", "a bound keeps its sign"


def test_a_gain_is_of_pairs_not_of_two_piles() -> None:
    """Both sides right on the same half: one example won says little more than itself."""
    without = answers(50, 50)
    found = paired_gain(answers(51, 49), without)
    assert found.high - found.low < 0.06
    crossed = paired_gain([False] * 49 + [True] * 51, without)
    assert crossed.mean == pytest.approx(found.mean)
    assert crossed.high - crossed.low > 0.3


def test_no_change_is_not_certain_either() -> None:
    same = paired_gain(answers(8, 12), answers(8, 12))
    assert (same.low, same.mean) == (pytest.approx(-NEWCOMBE_NONE_OF_20, abs=5e-5), 0.0)
    assert same.high == pytest.approx(NEWCOMBE_NONE_OF_20, abs=5e-5)
    every = paired_gain(answers(20, 0), answers(0, 20))
    assert (every.low, every.high) == (pytest.approx(1 - 2 * NEWCOMBE_NONE_OF_20, abs=1e-4), 1.0)


def test_a_gain_needs_as_many_on_both_sides() -> None:
    with pytest.raises(ValueError, match="came 2 and 1"):
        paired_gain([True, False], [True])


def test_groups_count_alike_whatever_their_size() -> None:
    """Means 0.5 of 4 and 0.1 of 40: 0.3, not the mean of all 44."""
    small, large = np.array([[1, 1, 0, 0]]), np.array([[1] * 4 + [0] * 36])
    found = mean_gain([small, large])
    assert (found.n, found.mean) == (44, pytest.approx(0.3))


def test_one_group_of_one_seed_is_a_paired_gain() -> None:
    with_, without = answers(60, 40), answers(30, 70)[::-1]
    gains = np.array(with_, dtype=float) - np.array(without, dtype=float)
    found, paired = mean_gain([gains[None]]), paired_gain(with_, without)
    assert (found.low, found.mean, found.high) == pytest.approx((paired.low, paired.mean, paired.high))


def test_seeds_that_differ_widen_the_interval_by_hand() -> None:
    """Two seeds, all right and all without gain: a resample has 2, 1 or none of the first, 1 : 2 : 1."""
    found = mean_gain([np.array([[1] * 50, [0] * 50])])
    assert (found.low, found.mean, found.high) == (0.0, 0.5, 1.0)


def test_models_of_one_training_are_no_further_examples() -> None:
    one = (np.random.default_rng(0).random((3, 1, 80)) < 0.4).astype(float)
    alone, repeated = mean_gain([one]), mean_gain([one.repeat(5, axis=1)])
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    assert repeated.n == 5 * alone.n


def test_groups_without_any_change_are_not_certain() -> None:
    found = mean_gain([np.zeros((3, 20)), np.ones((2, 20))])
    assert found.mean == 0.5
    assert (found.low, found.high) == pytest.approx(
        ((1 - 3 * NEWCOMBE_NONE_OF_20) / 2, (1 + NEWCOMBE_NONE_OF_20) / 2), abs=1e-4
    )


@pytest.mark.parametrize("between_seeds", [0.0, 0.08])
def test_the_mean_gains_interval_holds_the_truth(between_seeds: float) -> None:
    """Four seeds: at least as often as it says, whether trainings differ or not."""
    rng = np.random.default_rng(4)
    held = []
    for _ in range(80):
        shares = rng.normal(0.3, between_seeds, (2, 4, 1)).clip(0, 1)
        found = mean_gain([(rng.random((4, 40)) < share).astype(float) for share in shares])
        held.append(found.low <= 0.3 <= found.high)
    assert np.mean(held) > 0.9


@pytest.mark.parametrize(
    ("groups", "match"),
    [([], "came none"), ([np.zeros((2, 0))], "came none"), ([np.zeros(3)], r"group 0.*came shape \(3,\)")],
)
def test_groups_of_another_shape_are_refused(groups: list[np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mean_gain(groups)


def test_yes_and_no_by_hand() -> None:
    """5 yes wanted: 3 said, 1 denied, 1 unclear; 5 no wanted: 1 yes said, 3 denied, 1 unclear."""
    wanted = ["yes"] * 5 + ["no"] * 5
    said = ["yes", "Yes, there is.", "YES!", "No.", "a cat", "yes", "no", "There is not.", "No, yes", ""]
    found = yes_no(wanted, said)
    assert (found.n, found.unclear) == (10, 2)
    assert found.accuracy == 0.7  # 3 yes and 4 no
    assert (found.precision, found.recall) == (0.75, 0.6)
    assert found.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert found.yes_ratio == 0.4


def test_yes_inside_a_word_is_no_yes() -> None:
    assert yes_no(["yes", "no"], ["eyes", "nothing"]).unclear == 2


def test_ratios_of_nothing_are_zero() -> None:
    found = yes_no(["no", "no"], ["no", "no"])
    assert (found.accuracy, found.precision, found.recall, found.f1, found.yes_ratio) == (1.0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("wanted", "said", "match"),
    [([], [], "came 0 for 0"), (["yes"], [], "came 0 for 1"), (["Yes"], ["yes"], "came 'Yes'")],
)
def test_what_cannot_be_measured_is_refused(wanted: list[str], said: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        yes_no(wanted, said)


def test_the_rate_rises_to_its_peak_and_falls_by_a_cosine() -> None:
    rates = [cosine_rate(step, steps=10, warmup=0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5 * (1 + math.cos(math.pi * 4 / 8)))
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_no_warm_up_starts_at_the_peak_and_all_warm_up_ends_at_it() -> None:
    assert cosine_rate(0, steps=3, warmup=0.0) == 1.0
    assert cosine_rate(2, steps=3, warmup=1.0) == 1.0
