"""`passepartout task verify BUNDLE --model M [any option of vLLM's engine]`: asks a model a bundle's canary.

`passepartout task verify NAME --tasks DIR --model M …`: the same of a task of a store.
Starts vLLM on the model, without a server, and prints for each input how far its first token is from what
the trainer saw. The exit status is 1 where the engine does not serve the task as it was trained.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompts.bundle import Bundle, load_bundle
from prompts.canary import Canary
from prompts.canary_check import CanaryReport
from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.fingerprint import base_model_ref
from prompts.placing import find_bundle
from server.capacity import plan_capacity
from server.config import has_cache_size, quiet_offline
from server.engine.facts import Capacity

__all__ = ["as_json", "as_text", "ask_offline", "main"]

PROG = "passepartout task verify"
_FAILED = 1


def main(argv: list[str]) -> int:
    """Check a bundle and ask a model its canary; returns 0, or 1 where the model does not find it again.

    Raises:
        BundleError: the bundle is faulty, or does not fit the engine.
        StoreError: the store has no such task.
        BaseModelMismatchError: the bundle was trained in another model.
        ConfigError: the bundle has no canary, or one made in another model.
    """
    given, options = _parser().parse_known_args(argv)
    bundle = find_bundle(given.tasks, given.bundle) if given.tasks else load_bundle(Path(given.bundle))
    canary = _canary_for(bundle, given.model)
    _say(f"starting vLLM on {given.model} (a minute or so) …")
    quiet_offline()
    capacity = plan_capacity([bundle.manifest], tasks=1, host_tasks=1)
    with _started(given.model, options, capacity) as tasks:
        report, dtype = ask_offline(tasks, bundle, canary)
    print(json.dumps(as_json(bundle, report)) if given.json else as_text(bundle, canary, report, dtype))
    return _FAILED if report.faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Ask a model a bundle's canary: inputs with the first-token logprobs its trainer saw.",
        epilog="Other options go to vLLM's engine: --dtype, --enforce-eager, --max-model-len, …",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder; with --tasks the task's name")
    parser.add_argument("--tasks", type=Path, metavar="DIR", help="a store, the folder of bundles")
    parser.add_argument("--model", type=Path, required=True, metavar="M", help="folder of the base model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _canary_for(bundle: Bundle, model: Path) -> Canary:
    """The bundle's canary, made in this very model.

    Raises:
        BaseModelError: `model` is no checkpoint.
        ConfigError: there is none, or it was made in another model.
    """
    if bundle.canary is None:
        cure = "make one: passepartout task canary BUNDLE --model M"
        raise ConfigError(PROG, [fault(bundle.name, expected="a canary", came="a bundle without", cure=cure)])
    came, expected = base_model_ref(model), bundle.canary.base_model
    if came.fingerprint != expected.fingerprint:
        cure = "give that model, or make a canary in this one (a frame's; deep prompts need their own model)"
        wanted = f"{expected.id or 'the model'} ({expected.fingerprint}), where the canary was made"
        raise ConfigError(PROG, [fault("--model", expected=wanted, came=came.fingerprint, cure=cure)])
    return bundle.canary


@contextmanager
def _started(model: Path, options: list[str], capacity: Capacity) -> Iterator[Any]:
    """vLLM on `model` as `OfflineTasks`, stopped at the end."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from server.engine.offline import OfflineTasks, engine_arguments
    from server.vllm_cli import cache_bytes

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog=PROG))
    args = parser.parse_args(["--model", str(model), *options])
    if current_platform.is_cpu() and args.kv_cache_memory_bytes is None and not has_cache_size():
        args.kv_cache_memory_bytes = cache_bytes()
    chosen = {**vars(EngineArgs.from_cli_args(args)), **engine_arguments(capacity)}
    llm = LLM(**chosen)
    try:
        yield OfflineTasks(llm, model)
    finally:
        llm.llm_engine.engine_core.shutdown()


def ask_offline(tasks: Any, bundle: Bundle, canary: Canary) -> tuple[CanaryReport, str]:
    """What the engine says, and its dtype.

    Raises:
        ConfigError: its options leave nothing to compare.
    """
    from server.canary import ask_canary
    from server.vllm_canary import OfflineAsker

    asker = OfflineAsker(tasks)
    if asker.unable is not None:
        cure = "leave that option out"
        raise ConfigError(PROG, [fault("engine", expected="plain logprobs", came=asker.unable, cure=cure)])
    handle = tasks.load(bundle)
    _say(f"asking {len(canary.inputs)} inputs …")
    return asyncio.run(ask_canary(asker, bundle, canary, handle)), asker.dtype


def as_text(bundle: Bundle, canary: Canary, report: CanaryReport, dtype: str) -> str:
    """What the command prints: a line for each input, one for all, and what is wrong with all together."""
    lines = [f"{bundle.name} {bundle.digest}"]
    for number, one in enumerate(report.inputs, start=1):
        said = "; ".join(one.faults) if one.faults else f"{one.difference:.2g} off, ok"
        lines.append(f"  input {number}: {said}")
    against = f"{dtype} against the trainer's {canary.dtype}"
    verdict = "fails" if report.faults else "ok"
    lines.append(
        f"  all inputs: {report.difference:.2g} off, {report.tolerance:.2g} allowed ({against}): {verdict}"
    )
    shown = {found for one in report.inputs for found in one.faults}
    return "\n".join([*lines, *(f"  {found}" for found in report.faults if found not in shown)])


def as_json(bundle: Bundle, report: CanaryReport) -> dict[str, object]:
    """What the command prints with --json; a difference is null where the prompts differ."""
    return {
        "ok": not report.faults,
        "name": bundle.name,
        "digest": bundle.digest,
        "difference": _finite(report.difference),
        "tolerance": report.tolerance,
        "inputs": [_finite(one.difference) for one in report.inputs],
        "faults": list(report.faults),
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity: None, where the prompts differ."""
    return value if value < float("inf") else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
