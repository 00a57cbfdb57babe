"""Holds an engine's first tokens against a bundle's canary.

Per input the measure is the root mean square of the differences between the engine's logprobs and the
trainer's, over the trainer's likeliest tokens; the verdict is on all inputs together, which tells a wrong
mode from the noise of half precision better than any one token does. A token that the engine does not list
counts with the least it can be off.

Measured on pico-llava, its three shipped tasks, three inputs at a time, trainer in float32 on a CPU:

    same bundle: vLLM in float32 1.5e-5 (category) · transformers in float16 0.009 at most
                 vLLM in bfloat16 0.044 to 0.080 (trainer in bfloat16 too: 0.055 to 0.105)
    vLLM in bfloat16 with a wrong one: text rows permuted 0.13 to 0.34, one layer's text rows another's
                 0.17 to 0.32, the other vision mode 0.14 to 0.32 (and another number of tokens)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prompts.canary import CANARY_FILE, Canary, CanaryInput, ImageRows
from prompts.faults import fault

__all__ = ["COMPARED", "TOLERANCES", "CanaryReport", "FirstToken", "InputReport", "compare", "tolerance_of"]

COMPARED = 20
"""The trainer's likeliest tokens that are compared; vLLM's servers list so many unless told otherwise."""

TOLERANCES = {"float32": 1e-3, "float16": 0.015, "bfloat16": 0.12}
"""What a dtype may be off: root mean square over all inputs, in natural logarithms.

The errors of trainer and engine are independent, so two dtypes together may be off the root of the sum of
their squares.
"""

_ONE_INPUT = 2.0  # a single input may be so many times further off than all together
_CURE = "serve the very model it was trained in, with its chat template, or make the canary again"


@dataclass(frozen=True)
class FirstToken:
    """What an engine said.

    `prompt`: the ids it read, learned rows included; `logprobs`: id -> logprob of its likeliest tokens.
    """

    prompt: Sequence[int]
    logprobs: Mapping[int, float]


@dataclass(frozen=True)
class InputReport:
    """One input. `difference`: root mean square, infinite where the prompts differ or nothing finite came."""

    difference: float
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class CanaryReport:
    """All inputs, in their order. `difference` over all; `faults`: empty where the engine serves the task."""

    inputs: tuple[InputReport, ...]
    difference: float
    tolerance: float
    faults: tuple[str, ...]


def tolerance_of(*dtypes: str) -> float:
    """What the dtypes of trainer and engine may be off together; an unknown one counts as the coarsest."""
    coarsest = max(TOLERANCES.values())
    return math.hypot(*(TOLERANCES.get(one, coarsest) for one in dtypes))


def compare(canary: Canary, came: Sequence[FirstToken], *, text_length: int, dtype: str) -> CanaryReport:
    """Hold the engine's first token to each input against the trainer's.

    Args:
        came: what the engine said, in the order of the inputs.
        text_length: learned rows before the first token, whose ids mean nothing.
        dtype: what the engine computes in.
    """
    tolerance = tolerance_of(canary.dtype, dtype)
    asked = zip(canary.inputs, came, strict=True)
    reports = tuple(
        _compare_one(f"{CANARY_FILE}: input {number}", one, said, canary.image, text_length, tolerance)
        for number, (one, said) in enumerate(asked, start=1)
    )
    overall = math.sqrt(sum(one.difference * one.difference for one in reports) / len(reports))
    faults = [found for one in reports for found in one.faults]
    if tolerance < overall < math.inf:
        faults.insert(0, _too_far(f"{CANARY_FILE}: all inputs", tolerance, overall))
    return CanaryReport(reports, overall, tolerance, tuple(faults))


def _compare_one(
    field: str,
    wanted: CanaryInput,
    came: FirstToken,
    image: ImageRows | None,
    text_length: int,
    tolerance: float,
) -> InputReport:
    prompt = wanted.expanded(image)
    read = list(came.prompt[text_length:])
    if read != prompt:
        return InputReport(math.inf, (_other_prompt(f"{field}: prompt", prompt, read),))
    difference = _difference(wanted, came.logprobs)
    allowed = _ONE_INPUT * tolerance
    faults = (_too_far(field, allowed, difference),) if difference > allowed else ()
    return InputReport(difference, faults)


def _difference(wanted: CanaryInput, came: Mapping[int, float]) -> float:
    """Root mean square over as many of the trainer's tokens as the engine lists; infinite for NaN."""
    if not came or not all(map(math.isfinite, came.values())):
        return math.inf
    known = dict(zip(wanted.tokens, wanted.logprobs, strict=True))
    compared = min(COMPARED, len(came), len(known))
    came_least, known_least = min(came.values()), wanted.logprobs[-1]
    squares = 0.0
    for token in wanted.tokens[:compared]:
        off = came[token] - known[token] if token in came else max(0.0, known[token] - came_least)
        squares += off * off  # `**` would raise where the square is no float any more
    for token in came.keys() - known.keys():
        over = max(0.0, came[token] - known_least)
        squares += over * over
    return math.sqrt(squares / compared)


def _other_prompt(field: str, wanted: list[int], came: list[int]) -> str:
    same = next(
        (place for place, pair in enumerate(zip(wanted, came, strict=False)) if pair[0] != pair[1]), None
    )
    place = min(len(wanted), len(came)) if same is None else same
    said = f"{len(came)}, the first other one at place {place}"
    cure = "the chat template, the tokenizer or the vision mode is another than the trainer's"
    return fault(field, expected=f"the {len(wanted)} tokens that the trainer saw", came=said, cure=cure)


def _too_far(field: str, allowed: float, came: float) -> str:
    expected = f"first-token logprobs within {allowed:.3g} of the trainer's (root mean square)"
    return fault(field, expected=expected, came=f"{came:.3g}", cure=_CURE)
