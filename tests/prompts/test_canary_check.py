"""The comparison: what counts as found again, by dtype; what an engine does not list; other prompts."""

import math
from pathlib import Path

import pytest

from prompts.canary import Canary
from prompts.canary_check import TOLERANCES, CanaryReport, FirstToken, compare, tolerance_of
from tests.prompts.canaries import IMAGE_TOKEN, LOGPROBS, TOKENS, canary_for
from tests.prompts.sample import save_whole

LEARNED = [99, 99]
PICTURED = [*LEARNED, 1, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, 2, 3]
SPOKEN = [*LEARNED, 1, 4, 5]
SAME = dict(zip(TOKENS, LOGPROBS, strict=True))


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return canary_for(save_whole(tmp_path / "whole"))


def report(
    canary: Canary, first: dict[int, float], second: dict[int, float] = SAME, dtype: str = "float32"
) -> CanaryReport:
    said = [FirstToken(PICTURED, first), FirstToken(SPOKEN, second)]
    return compare(canary, said, text_length=len(LEARNED), dtype=dtype)


def moved(by: float) -> dict[int, float]:
    return {token: value + by for token, value in SAME.items()}


def test_the_same_is_found_again(canary: Canary) -> None:
    found = report(canary, SAME)
    assert (found.difference, found.faults) == (0.0, ())


def test_the_measure_is_the_root_mean_square(canary: Canary) -> None:
    found = report(canary, {**SAME, TOKENS[1]: LOGPROBS[1] - 0.008})
    assert found.inputs[0].difference == pytest.approx(0.004)
    assert found.difference == pytest.approx(0.004 / math.sqrt(2))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_allowed_depends_on_both_dtypes(canary: Canary, dtype: str) -> None:
    for trained, served in (("float32", dtype), (dtype, "float32"), (dtype, dtype)):
        allowed = math.hypot(TOLERANCES[trained], TOLERANCES[served])
        made = canary.model_copy(update={"dtype": trained})
        assert report(made, moved(-0.9 * allowed), moved(0.9 * allowed), served).faults == ()
        (found,) = report(made, moved(-1.1 * allowed), moved(1.1 * allowed), served).faults
        assert found.startswith(
            f"canary.json: all inputs: expected first-token logprobs within {allowed:.3g} of"
        )


def test_an_unknown_dtype_is_as_coarse_as_any() -> None:
    assert tolerance_of("float32", "float8") == tolerance_of("float32", "bfloat16")


def test_one_input_far_off_is_named(canary: Canary) -> None:
    found = report(canary, SAME, moved(-0.0035))
    fields = [one.split(": expected")[0] for one in found.faults]
    assert fields == ["canary.json: all inputs", "canary.json: input 2"]
    assert "came 0.00247" in found.faults[0]
    assert "came 0.0035" in found.faults[1]


def test_a_token_the_engine_does_not_list_counts_with_the_least_it_is_off(canary: Canary) -> None:
    """The engine's worst stands at -1.5: the canary's second (-1.39), not listed, is 0.11 off at least."""
    listed = {TOKENS[0]: LOGPROBS[0], 50: -1.4, 51: -1.45, 52: -1.5}
    least = [LOGPROBS[1] + 1.5, *(value - LOGPROBS[-1] for value in (-1.4, -1.45, -1.5))]
    assert report(canary, listed).inputs[0].difference == pytest.approx(
        math.sqrt(sum(one**2 for one in least) / 4)
    )


def test_an_engine_may_list_fewer_tokens(canary: Canary) -> None:
    fewer = dict(list(SAME.items())[:2])
    assert report(canary, fewer).difference == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e200])
def test_what_is_no_number_is_never_found_again(canary: Canary, value: float) -> None:
    found = report(canary, {**SAME, TOKENS[2]: value}, dtype="bfloat16")
    assert found.difference == math.inf
    assert found.faults


def test_nothing_listed_is_never_found_again(canary: Canary) -> None:
    assert report(canary, {}).faults


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (PICTURED[:-1], "came 5, the first other one at place 5"),
        ([*PICTURED, 6], "came 7, the first other one at place 6"),
        ([*LEARNED, 1, IMAGE_TOKEN, IMAGE_TOKEN, 2, 3], "came 5, the first other one at place 3"),
        ([*LEARNED, 9, *PICTURED[3:]], "came 6, the first other one at place 0"),
    ],
)
def test_another_prompt_is_a_fault_whatever_it_is_answered(canary: Canary, ids: list[int], said: str) -> None:
    came = [FirstToken(ids, SAME), FirstToken(SPOKEN, SAME)]
    (found,) = compare(canary, came, text_length=len(LEARNED), dtype="bfloat16").faults
    assert "canary.json: input 1: prompt: expected the 6 tokens that the trainer saw" in found
    assert said in found
