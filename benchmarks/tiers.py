"""`tiers`: a thousand registered tasks of which few are resident, against one task."""

import argparse
import socket
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.engines import KV_CACHE_BYTES
from benchmarks.harness import alternate, ratio_of
from benchmarks.materials import find_model, make_tasks
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say
from benchmarks.traffic import Load, Query, ask_all, first_token_seconds, make_query, zipf_ranks
from training.demo.serving import running_server

__all__ = ["QUESTION"]

_TEACHES = """\
`passepartout serve` on a store of random small M²PT bundles (4 text and 4 vision vectors), of which few fit
on the device and some in the host's memory at once. A round is two loads over HTTP, each a closed loop of
clients with a picture in every request: all for one task, and spread over the tasks as Zipf's law says (the
task of rank k as often as 1 / k). Refused requests count for nothing. Afterwards tasks that nobody asked
before are asked twice, one by one on the idle server.
Figures: answer tokens per second of the Zipf load over those of the one task; the time to the first token of
a cold task over that of the same task warm.
"""
_LENGTHS = (4, 4)
_NEVER_ASKED = 24
_PROBE_SEED = 10_000_000


def _tier_options(options: argparse.Namespace) -> list[str]:
    """The only place that knows the server's options for tiers."""
    return [
        "--max-device-tasks", str(options.device_tasks), "--max-host-tasks", str(options.host_tasks),
    ]  # fmt: skip


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    with tempfile.TemporaryDirectory(prefix="benchmark-store-") as folder:
        store = Path(folder) / "tasks"
        bundles = make_tasks(model, store, options.tasks, lengths=_LENGTHS, projector=False, say=say)
        names = [path.name for path in bundles]
        say("starting the server")
        more = [*_tier_options(options), "--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
        more += ["--dtype", options.dtype, "--max-num-seqs", "32", "--no-enforce-eager"]
        log = Path(folder) / "server.log"
        with running_server(model=model, tasks=store, port=_free_port(), log=log, options=more) as address:
            return _measure(address, names, options, say)


def _measure(address: str, names: list[str], options: argparse.Namespace, say: Say) -> Outcome:
    asked, cold = names[:-_NEVER_ASKED], names[-_NEVER_ASKED:]
    loads: dict[str, list[Load]] = {"one task": [], "zipf": []}

    def goodput(side: str, number: int) -> float:
        generator = np.random.default_rng([4, number + 1000])
        ranks = zipf_ranks(generator, len(asked), options.requests) if side == "zipf" else []
        tasks = [asked[rank] for rank in ranks] or [asked[0]] * options.requests
        first = ((number + 1000) * 2 + (side == "zipf")) * options.requests
        queries = [_query(task, first + index, options) for index, task in enumerate(tasks)]
        load = ask_all(address, queries, at_once=options.clients)
        loads[side].append(load)
        return load.goodput

    measures = {side: partial(goodput, side) for side in loads}
    rounds = alternate(measures, options.rounds, say=say)
    say("asking tasks that nobody asked before")
    twice = [_query(one, _PROBE_SEED + number, options) for number, one in enumerate([*cold, *cold])]
    pairs = zip(twice[: len(cold)], twice[len(cold) :], strict=True)
    seconds = [first_token_seconds(address, query) for pair in pairs for query in pair]
    cold_seconds, warm_seconds = seconds[::2], seconds[1::2]
    good = {
        side: f"{sum(one.good for one in of)} of {sum(one.asked for one in of)}" for side, of in loads.items()
    }
    figures = [
        Figure.of_ratio("goodput against one task's", rounds.ratio("zipf", "one task"), 0.8),
        Figure.of_ratio("first token, cold over warm", ratio_of(cold_seconds, warm_seconds)),
    ]
    raw = {**rounds.sides, "answered": good, "cold seconds": cold_seconds, "warm seconds": warm_seconds}
    return QUESTION.found(options, figures, raw)


def _query(task: str, seed: int, options: argparse.Namespace) -> Query:
    return make_query(task, seed=seed, tokens=options.tokens)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


QUESTION = Question(
    name="tiers",
    asks="1,000 registered tasks of which 32 are resident, Zipf traffic, against one task",
    teaches=_TEACHES,
    rounds=5,
    run=_run,
    options={
        "tasks": (1000, "registered tasks"),
        "device_tasks": (32, "tasks resident on the device"),
        "host_tasks": (256, "tasks kept in the host's memory"),
        "requests": (64, "requests of a load"),
        "clients": (16, "clients that ask at once"),
        "tokens": (24, "tokens of each answer"),
    },
)
