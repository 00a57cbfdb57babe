"""Do learned prompts come out right on this machine's GPU? Run it from the root of the repository:

    python -m benchmarks.gpu_smoke                      a CUDA machine, vLLM's own defaults
    python -m benchmarks.gpu_smoke --dtype bfloat16     as a server runs
    python -m benchmarks.gpu_smoke --device cpu --eager the same steps without a GPU

It writes a tiny random LLaVA and a bundle of every kind, starts vLLM on it (model runner V2, torch.compile
and CUDA graphs where nothing is switched off), and holds each answer against plain transformers: alone, all
in one batch, and again from the prefix cache. An answer is right when its first token's logprobs are within
the tolerance, are nearer to its own task's than to those of any other task or of the base model, and (in
float32) its greedy tokens are the same. Nothing is downloaded.

Exit status: 0 all right, 1 something is wrong (the table says what), 2 no CUDA device or a wrong option.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from server.engine.offline import OfflineTasks
from tests.engine.oracle import Answer, Oracle
from tests.engine.serving import ALL_CASES, Case, Served, load_all, start_llm
from tests.engine.tiny_llava import VOCABULARY, make_tiny_llava

__all__ = ["TOLERANCES", "Verdict", "check", "judge", "main", "table"]

TOLERANCES = {"float32": 0.02, "bfloat16": 0.5}
"""Largest difference of a logprob. On a GPU float32 products may be computed in TF32."""
ROUNDS = ("alone", "in one batch", "from the cache")
_CACHE_BYTES = 1 << 28
_NO_DEVICE = 2


@dataclass(frozen=True)
class Verdict:
    """How one answer compares. `error`: largest difference of the first token's logprobs; `nearest`: the task
    whose logprobs are nearest (None is the base model); `same_tokens`: greedy tokens equal the oracle's."""

    error: float
    nearest: str | None
    same_tokens: bool

    def faults(self, case: Case, *, dtype: str) -> list[str]:
        """What is wrong with it, in words."""
        found = []
        if not self.error <= TOLERANCES[dtype]:  # NaN is no number within it
            found.append(f"logprobs are {self.error:.4f} off")
        if self.nearest != case.task:
            found.append(f"answers as {self.nearest or 'the base model'}")
        if dtype == "float32" and not self.same_tokens:
            found.append("other tokens")
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the check; returns the exit status."""
    options = _parser().parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_smoke: no CUDA device here; on a machine without one: --device cpu", file=sys.stderr)
        return _NO_DEVICE
    cases = ALL_CASES[: options.cases]
    with tempfile.TemporaryDirectory() as folder, _serve(Path(folder), options) as served:
        faults = _check_engine(served, options)
        verdicts = check(served, cases)
    print(table(cases, verdicts, dtype=options.dtype))
    for verdict_round, row in zip(ROUNDS, verdicts, strict=True):
        for case, verdict in zip(cases, row, strict=True):
            found = verdict.faults(case, dtype=options.dtype)
            faults += [f"{case} {verdict_round}: {fault}" for fault in found]
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"{len(cases)} cases, {len(ROUNDS)} rounds: {len(faults) or 'no'} faults")
    return 1 if faults else 0


def check(served: Served, cases: Sequence[Case]) -> list[list[Verdict]]:
    """Asks all `cases` in each of `ROUNDS`; a list of verdicts for each round."""
    oracles = {case: _expect_all(served, case) for case in cases}
    expected = [served.expect(case) for case in cases]
    alone = []
    for case in cases:
        served.forget_cached()
        alone += served.ask([case])
    served.forget_cached()
    rounds = [alone, served.ask(cases), served.ask(cases)]
    return [
        [
            judge(output, answer, oracles[case])
            for case, answer, output in zip(cases, expected, outputs, strict=True)
        ]
        for outputs in rounds
    ]


def judge(output: Any, expected: Answer, others: dict[str | None, Tensor]) -> Verdict:
    """One vLLM `RequestOutput` against its oracle and against every task's logprobs, each (vocabulary,)."""
    completion = output.outputs[0]
    first = completion.logprobs[0]
    came = torch.tensor([first[token].logprob for token in range(VOCABULARY)])
    distances = {name: float((came - logprobs).abs().max()) for name, logprobs in others.items()}
    error = float((came - expected.logprobs).abs().max())
    nearest = min(distances, key=lambda name: distances[name])
    return Verdict(error, nearest, list(completion.token_ids) == expected.tokens)


def table(cases: Sequence[Case], verdicts: Sequence[Sequence[Verdict]], *, dtype: str) -> str:
    """A line for each case: its largest logprob error in each round, `!` where something is wrong."""
    width = max(len(str(case)) for case in cases)
    lines = [f"{'case':{width}}  " + "  ".join(f"{name:>14}" for name in ROUNDS)]
    for index, case in enumerate(cases):
        row = [verdict[index] for verdict in verdicts]
        cells = [f"{one.error:.6f}{'!' if one.faults(case, dtype=dtype) else ' '}" for one in row]
        lines.append(f"{case!s:{width}}  " + "  ".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--dtype", choices=tuple(TOLERANCES), default="float32", help="default: float32")
    parser.add_argument("--eager", action="store_true", help="no torch.compile and no CUDA graphs")
    parser.add_argument(
        "--chunk", type=int, default=512, help="tokens of a step at most; 64 splits prompts (default: 512)"
    )
    parser.add_argument("--cases", type=int, default=len(ALL_CASES), help="the first N cases (default: all)")
    return parser


@contextmanager
def _serve(folder: Path, options: argparse.Namespace) -> Iterator[Served]:
    """vLLM on the tiny model with a bundle of every kind resident."""
    model = make_tiny_llava(folder / "model")
    engine = {"dtype": options.dtype, "enforce_eager": options.eager}
    engine |= {"max_num_batched_tokens": options.chunk, "kv_cache_memory_bytes": _CACHE_BYTES}
    with start_llm(model, folder / "cache", **engine) as llm:
        served = Served(OfflineTasks(llm, model), Oracle(model), model, bundles={}, handles={})
        load_all(served, folder / "tasks")
        yield served


def _check_engine(served: Served, options: argparse.Namespace) -> list[str]:
    """Says what was started; a fault where it is not what this script is for."""
    config = served.tasks.llm.llm_engine.vllm_config
    runner = "V2" if config.use_v2_model_runner else "V1"
    graphs = config.compilation_config.cudagraph_mode.name
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{device}: model runner {runner}, CUDA graphs {graphs}, {options.dtype}")
    for part, why in served.tasks.residency.facts.refusals.items():
        print(f"left out, the engine refuses it: {part}: {why}")
    faults = []
    if options.device == "cuda" and runner != "V2":
        faults.append("vLLM took model runner V1; its log says why")
    if options.device == "cuda" and not options.eager and graphs == "NONE":
        faults.append("vLLM captured no CUDA graphs")
    return faults


def _expect_all(served: Served, case: Case) -> dict[str | None, Tensor]:
    """The first token's logprobs of every task, and of the base model, for the prompt of `case`."""
    names = [None, *(name for name, handle in served.handles.items() if _can_answer(handle, case))]
    return {name: served.expect(Case(name, case.pictures), tokens=1).logprobs for name in names}


def _can_answer(handle: Any, case: Case) -> bool:
    return case.pictures > 0 or not handle.needs_picture


if __name__ == "__main__":
    sys.exit(main())
