"""Prometheus metrics of each task, beside vLLM's own on the same `/metrics`.

vLLM serves whatever lives in prometheus_client's default registry (or, with several API servers, in
`PROMETHEUS_MULTIPROC_DIR`), so registering there is all it takes.

| metric (all begin with `passepartout_`) | type | labels | meaning |
|---|---|---|---|
| `task_requests_total`  | counter   | task, version | requests on a generating route, good and bad |
| `task_errors_total`    | counter   | task, version, code | answers with a status of 400 or more; aborts |
| `task_in_flight`       | gauge     | task         | requests being answered now |
| `task_latency_seconds` | histogram | task, version | from the request's arrival to its last byte |
| `task_ttft_seconds`    | histogram | task, stream | from arrival to the engine's first token |
| `task_tokens_total`    | counter   | task, kind   | tokens the engine read and wrote |
| `frame_seconds`        | histogram | task         | putting the learned frame on one picture |
| `tasks`                | gauge     | state        | tasks "served", on the "device"; bundles "faulty" |
| `task_load_seconds`    | histogram | task, tier   | bringing a cold task to the device |
| `task_info`            | gauge     | task, digest | 1 for each digest that serves, 0 for earlier ones |
| `task_on_device`       | gauge     | task         | 1 where no request need wait for it, else 0 |
| `task_swaps_total`     | counter   | task         | another digest came to serve under the name |
| `canaries_total`       | counter   | task, result | canaries asked of the engine |
| `canary_off`           | gauge     | task         | how far off the last one was, of what it may be |
| `refusals_total`       | counter   | code         | requests refused for who asks, or how much |
| `under_way`            | gauge     |              | requests on routes that do work, waiting ones too |
| `waiting`              | gauge     |              | those of them that the engine cannot have begun |

Label values are bounded, but for `digest`: one for each bundle that served. `task`: the name of a task that
is or was registered, `_base` (no task asked for) or `_unknown` (a name nobody registered). `version`: the
first 12 digits of the digest that answered, "" without a task; of a task's versions 8 at most have a label,
others "_unknown" (`server.version_labels`). `code`: a string
code of ours (`server.errors`), `http_<status>` for vLLM's own errors, `client_closed` for a request whose
client went away. `stream`: "true" or "false".
`tier`: where it came from, "host" memory or the "store".
`kind`: "prompt" (learned rows included), "cached" (the part of "prompt" found in the prefix cache),
"completion".
`result`: "passed", "failed", "passed_over" (it says nothing of this engine) or "error" (it could not be
asked); the `task` of a canary is any name in the store. `code` of a refusal: ours of 401, 403, 404, 413, 429
and 503.
"""

import os
from collections.abc import Callable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from server.version_labels import VersionLabels

__all__ = ["BASE_LABEL", "UNKNOWN_LABEL", "TaskMetrics"]

BASE_LABEL = "_base"
UNKNOWN_LABEL = "_unknown"

_LATENCY_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOAD_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_FRAME_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class TaskMetrics:
    """The metrics of one API server process; make one per registry.

    `is_registered` says whether a name may become a label value.
    """

    def __init__(self, is_registered: Callable[[str], bool], registry: CollectorRegistry = REGISTRY) -> None:
        self._is_registered = is_registered
        self._published: set[tuple[str, str]] = set()
        can_forget = "PROMETHEUS_MULTIPROC_DIR" not in os.environ  # its files only grow
        self._versions = VersionLabels(self._forget if can_forget else None)
        self._requests = Counter(
            "passepartout_task_requests_total", "Requests per task.", ["task", "version"], registry=registry
        )
        self._errors = Counter(
            "passepartout_task_errors_total",
            "Errors per task and code.",
            ["task", "version", "code"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "passepartout_task_in_flight",
            "Requests being answered now.",
            ["task"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._latency = Histogram(
            "passepartout_task_latency_seconds",
            "Arrival to last byte.",
            ["task", "version"],
            registry=registry,
            buckets=_LATENCY_BUCKETS,
        )
        self._ttft = Histogram(
            "passepartout_task_ttft_seconds",
            "Arrival to first token.",
            ["task", "stream"],
            registry=registry,
            buckets=_TTFT_BUCKETS,
        )
        self._tokens = Counter(
            "passepartout_task_tokens_total", "Tokens per task and kind.", ["task", "kind"], registry=registry
        )
        self._frame = Histogram(
            "passepartout_frame_seconds",
            "Putting a learned frame on a request's pictures.",
            ["task"],
            registry=registry,
            buckets=_FRAME_BUCKETS,
        )
        self._load = Histogram(
            "passepartout_task_load_seconds",
            "Bringing a task to the device.",
            ["task", "tier"],
            registry=registry,
            buckets=_LOAD_BUCKETS,
        )
        self._add_operations(registry)

    def _add_operations(self, registry: CollectorRegistry) -> None:
        """What an operator asks of all tasks: where they are, what became of them, who was turned away."""
        self._tasks = Gauge(
            "passepartout_tasks",
            "Bundles of the store.",
            ["state"],
            registry=registry,
            multiprocess_mode="max",
        )
        self._info = Gauge(
            "passepartout_task_info",
            "1 for the digest that serves the task.",
            ["task", "digest"],
            registry=registry,
            multiprocess_mode="max",
        )
        self._on_device = Gauge(
            "passepartout_task_on_device",
            "1 where a request need not wait for the task.",
            ["task"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._swaps = Counter(
            "passepartout_task_swaps_total", "Digests exchanged per task.", ["task"], registry=registry
        )
        self._canaries = Counter(
            "passepartout_canaries_total", "Canaries asked.", ["task", "result"], registry=registry
        )
        self._canary_off = Gauge(
            "passepartout_canary_off",
            "Difference of the last canary, of what it may be.",
            ["task"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._refusals = Counter(
            "passepartout_refusals_total", "Requests refused.", ["code"], registry=registry
        )
        self._under_way = Gauge(
            "passepartout_under_way",
            "Requests on routes that do work.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "passepartout_waiting",
            "Requests the engine cannot have begun.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def label(self, task: str | None) -> str:
        """The bounded label value of a task's name as a client sent it."""
        if task is None:
            return BASE_LABEL
        return task if self._is_registered(task) else UNKNOWN_LABEL

    def request_started(self, task: str | None, digest: str | None) -> None:
        """Count a request. `digest`: of the version that answers, None without a task."""
        label, version = self._labels(task, digest)
        self._requests.labels(label, version).inc()
        self._in_flight.labels(label).inc()

    def request_ended(
        self, task: str | None, digest: str | None, *, seconds: float, error_code: str | None
    ) -> None:
        """Count its end; `task` and `digest` as at its start."""
        label, version = self._labels(task, digest)
        self._in_flight.labels(label).dec()
        self._latency.labels(label, version).observe(seconds)
        if error_code is not None:
            self._errors.labels(label, version, error_code).inc()

    def _labels(self, task: str | None, digest: str | None) -> tuple[str, str]:
        label = self.label(task)
        return label, self._versions.label(label, digest if label == task else None)

    def _forget(self, task: str, version: str) -> None:
        for metric in (self._requests, self._errors, self._latency):
            metric.remove_by_labels({"task": task, "version": version})

    def first_token(self, task: str | None, *, seconds: float, streamed: bool) -> None:
        self._ttft.labels(self.label(task), "true" if streamed else "false").observe(seconds)

    def tokens(self, task: str | None, *, prompt: int, cached: int, completion: int) -> None:
        label = self.label(task)
        for kind, count in (("prompt", prompt), ("cached", cached), ("completion", completion)):
            self._tokens.labels(label, kind).inc(count)

    def frame(self, task: str | None, *, seconds: float) -> None:
        self._frame.labels(self.label(task)).observe(seconds)

    def load(self, task: str, tier: str, seconds: float) -> None:
        self._load.labels(self.label(task), tier).observe(seconds)

    def store(self, served: Mapping[str, Mapping[str, bool]], *, faulty: int) -> None:
        """Publish what serves each task, digest -> whether it is on the device; `faulty`: bundles refused."""
        self._versions.serve(served)
        on_device = {name: all(versions.values()) for name, versions in served.items()}
        for state, count in (
            ("served", len(served)),
            ("device", sum(on_device.values())),
            ("faulty", faulty),
        ):
            self._tasks.labels(state).set(count)
        before, now = self._published, {(name, digest) for name in served for digest in served[name]}
        names_before = {name for name, _ in before}
        for name, digest in before - now:
            self._info.labels(name, digest).set(0)
        for name, digest in now - before:
            self._info.labels(name, digest).set(1)
            if name in names_before:
                self._swaps.labels(name).inc()
        for name in names_before | served.keys():
            self._on_device.labels(name).set(on_device.get(name, False))
        self._published = now

    def canary(self, task: str, result: str, off: float | None) -> None:
        """Count a canary that was asked. `off`: its difference, of what it may be; None: it says nothing."""
        self._canaries.labels(task, result).inc()
        if off is not None:
            self._canary_off.labels(task).set(off)

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()

    def queue(self, *, under_way: int, waiting: int) -> None:
        """Publish what the gate has let in."""
        self._under_way.set(under_way)
        self._waiting.set(waiting)
