"""The GPU check, run without a GPU, and what it says of wrong answers."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_smoke import TOLERANCES, Verdict, judge, main, table
from tests.engine.oracle import Answer
from tests.engine.serving import Case
from tests.engine.tiny_llava import VOCABULARY

pytestmark = pytest.mark.engine


def make_output(logprobs: torch.Tensor, tokens: list[int]) -> Any:
    """As much of a `RequestOutput` as is read."""
    first = {token: SimpleNamespace(logprob=float(one)) for token, one in enumerate(logprobs)}
    return SimpleNamespace(outputs=[SimpleNamespace(logprobs=[first], token_ids=tokens)])


def test_a_foreign_answer_is_told_whatever_the_tolerance() -> None:
    own, base = torch.zeros(VOCABULARY), torch.full((VOCABULARY,), 0.3)
    others = {"text": own, None: base}
    right = judge(make_output(own + 0.01, [1, 2]), Answer([1, 2], own), others)
    assert right.faults(Case("text"), dtype="float32") == []
    wrong = judge(make_output(base, [1, 2]), Answer([1, 2], own), others)
    assert wrong.error < TOLERANCES["bfloat16"]
    assert wrong.faults(Case("text"), dtype="bfloat16") == ["answers as the base model"]


def test_each_fault_is_named() -> None:
    wrong = Verdict(0.3, "text", same_tokens=False)
    assert wrong.faults(Case("both"), dtype="float32") == [
        "logprobs are 0.3000 off",
        "answers as text",
        "other tokens",
    ]
    assert wrong.faults(Case("text"), dtype="bfloat16") == []
    assert Verdict(math.nan, None, same_tokens=True).faults(Case(None), dtype="bfloat16")


def test_the_table_marks_what_is_wrong() -> None:
    right, wrong = Verdict(0.001, "text", same_tokens=True), Verdict(0.001, None, same_tokens=True)
    lines = table(
        [Case("text"), Case("text", 0)], [[right, right], [right, wrong], [right, right]], dtype="float32"
    )
    assert lines.splitlines()[1].split() == ["text-1", "0.001000", "0.001000", "0.001000"]
    assert lines.splitlines()[2].split() == ["text-0", "0.001000", "0.001000!", "0.001000"]


def test_without_a_cuda_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main([]) == 2
    assert "no CUDA device here" in capsys.readouterr().err


def test_on_a_cpu_every_step_of_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--eager", "--chunk", "64", "--cases", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("CPU: model runner V1, CUDA graphs NONE, float32") for line in lines)
    assert lines[-1] == "4 cases, 3 rounds: no faults"
