"""Metrics per task: what is counted for which request, and that no client can invent a label."""

import re
import time
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import server.metrics
from server.metrics import TaskMetrics
from server.version_labels import MOST_VERSIONS, VersionLabels
from tests.server.conftest import Site

CHAT = "/v1/chat/completions"


def value(site: Site, name: str, **labels: str) -> float:
    """One sample now, 0 where there is none yet."""
    return site.server.registry.get_sample_value(f"passepartout_{name}", labels) or 0.0


def version_of(site: Site, task: str) -> str:
    """The label of the version that serves `task`; of none for what is no task."""
    digest = site.server.service.tasks.digests().get(task)
    return digest[:12] if digest is not None else ""


def ask(site: Site, **body: Any) -> httpx.Response:
    return site.client.post(CHAT, json={"messages": [{"role": "user", "content": "?"}]} | body)


def settled(read: Any, expected: float) -> float:
    """`read()` once it is what it should become: the last byte is out before the counting is done."""
    deadline = time.monotonic() + 5
    while (now := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return float(now)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("task", "label"), [("plain", "plain"), (None, "_base")])
def test_a_request_is_counted_under_its_task(site: Site, task: str | None, label: str, stream: bool) -> None:
    whether = "true" if stream else "false"
    version = version_of(site, label)
    assert len(version) == (0 if task is None else 12)

    def read() -> dict[str, float]:
        return {
            "requests": value(site, "task_requests_total", task=label, version=version),
            "latency": value(site, "task_latency_seconds_count", task=label, version=version),
            "ttft": value(site, "task_ttft_seconds_count", task=label, stream=whether),
            "prompt": value(site, "task_tokens_total", task=label, kind="prompt"),
            "cached": value(site, "task_tokens_total", task=label, kind="cached"),
            "completion": value(site, "task_tokens_total", task=label, kind="completion"),
        }

    before = read()
    assert ask(site, task=task, stream=stream).status_code == 200
    expected = before["latency"] + 1
    assert settled(lambda: read()["latency"], expected) == expected
    after = read()
    assert {name: after[name] - before[name] for name in after} == {
        "requests": 1,
        "latency": 1,
        "ttft": 1,
        "prompt": 5,
        "cached": 4,
        "completion": 3,
    }
    assert value(site, "task_in_flight", task=label) == 0


def test_a_whole_answers_first_token_is_the_engines(site: Site) -> None:
    labels = {"task": "renamed", "stream": "false"}
    ask(site, task="renamed")
    assert value(site, "task_ttft_seconds_sum", **labels) == 0.25


@pytest.mark.parametrize(
    ("body", "label", "code"),
    [
        ({"task": "nosuch"}, "_unknown", "task_not_found"),
        ({"task": "plain", "model": "base:classes"}, "_unknown", "task_conflict"),
        ({"task": ""}, "_unknown", "invalid_input"),
        ({"task": "framed"}, "framed", "picture_required"),
        ({"model": "other"}, "_base", "http_404"),
        ({"task": "plain", "explode": 1}, "plain", "internal_error"),
        ({"task": "plain", "stream": True, "stream_breaks": 1}, "plain", "http_500"),
    ],
)
def test_an_error_is_counted_by_its_code(site: Site, body: dict[str, Any], label: str, code: str) -> None:
    def read() -> float:
        return value(site, "task_errors_total", task=label, version=version_of(site, label), code=code)

    expected = read() + 1
    ask(site, **body)
    assert settled(read, expected) == expected


def test_a_client_that_goes_away_is_counted_and_its_request_aborted(site: Site) -> None:
    def read() -> float:
        version = version_of(site, "plain")
        return value(site, "task_errors_total", task="plain", version=version, code="client_closed")

    engine = site.server.engine
    expected, engine.aborted[:] = read() + 1, []
    engine.pause_seconds = 0.2
    try:
        body = {"messages": [{"role": "user", "content": "?"}], "task": "plain", "stream": True}
        with httpx.Client(base_url=site.url) as leaving, leaving.stream("POST", CHAT, json=body) as response:
            next(response.iter_lines())
        assert settled(read, expected) == expected
    finally:
        engine.pause_seconds = 0.0
    assert engine.aborted == ["request-1"]
    assert site.server.service.tasks.find("plain").leases == 0
    assert value(site, "task_in_flight", task="plain") == 0


def test_a_stream_holds_its_task_until_the_last_byte(site: Site) -> None:
    """Once for the HTTP request, once for the engine's: a drain waits for both."""
    task, engine = site.server.service.tasks.find("plain"), site.server.engine
    engine.pause_seconds = 0.1
    try:
        body = {"messages": [{"role": "user", "content": "?"}], "task": "plain", "stream": True}
        with site.client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            assert task.leases == 2
            assert list(lines)[-2] == "data: [DONE]"
    finally:
        engine.pause_seconds = 0.0
    assert settled(lambda: task.leases, 0) == 0


def test_names_nobody_registered_share_one_label(site: Site) -> None:
    for index in range(20):
        ask(site, task=f"invented-{index}")
    text = generate_latest(site.server.registry).decode()
    labels = set(re.findall(r'task="([^"]*)"', text))
    assert "_unknown" in labels
    assert labels <= {"_base", "_unknown", *site.server.service.tasks.tasks}


def test_the_store_is_published(site: Site) -> None:
    assert value(site, "tasks", state="served") == 5
    assert value(site, "tasks", state="device") == 5
    assert value(site, "tasks", state="faulty") == 2
    digest = site.server.service.tasks.find("plain").digest
    assert value(site, "task_info", task="plain", digest=digest) == 1
    assert value(site, "task_on_device", task="plain") == 1


def test_a_digest_that_no_longer_serves_is_0() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(lambda name: True, registry)
    metrics.store({"a": {"old": True}, "b": {"same": True}}, faulty=0)
    metrics.store({"a": {"new": False}, "b": {"same": True}}, faulty=0)
    serving = {
        (sample.labels["task"], sample.labels["digest"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "passepartout_task_info"
    }
    assert serving == {("a", "old"): 0, ("a", "new"): 1, ("b", "same"): 1}


def test_swaps_and_places_of_tasks_are_told() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(lambda name: True, registry)
    read = registry.get_sample_value
    for digests in (["one"], ["two"], ["two"], ["two", "three"], ["three", "two"], ["three"]):
        metrics.store({"a": dict.fromkeys(digests, True), "b": {"same": False}}, faulty=0)
    assert read("passepartout_task_swaps_total", {"task": "a"}) == 2  # one comes back, none by going
    assert read("passepartout_task_swaps_total", {"task": "b"}) is None
    assert [read("passepartout_task_on_device", {"task": name}) for name in "ab"] == [1, 0]
    assert [read("passepartout_tasks", {"state": state}) for state in ("served", "device")] == [2, 1]
    metrics.store({"b": {"same": True, "new": False}}, faulty=0)  # gone is not swapped
    assert read("passepartout_task_swaps_total", {"task": "a"}) == 2
    assert [read("passepartout_task_on_device", {"task": name}) for name in "ab"] == [0, 0]


def versions_in(registry: CollectorRegistry, task: str) -> dict[str, set[str]]:
    """Metric -> the versions of `task` that it has series of."""
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            if "version" in sample.labels and sample.labels["task"] == task:
                found.setdefault(family.name, set()).add(sample.labels["version"])
    return found


def one_request(metrics: TaskMetrics, task: str, digest: str) -> None:
    """A request that failed."""
    metrics.request_started(task, digest)
    metrics.request_ended(task, digest, seconds=0.1, error_code="internal_error")


def test_the_versions_of_a_split_are_told_apart() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics({"a"}.__contains__, registry)
    metrics.store({"a": {"1" * 64: True, "2" * 64: True}}, faulty=0)
    metrics.request_started("a", "1" * 64)
    metrics.request_ended("a", "1" * 64, seconds=1, error_code=None)
    one_request(metrics, "a", "2" * 64)
    read = registry.get_sample_value
    labels = [{"task": "a", "version": digit * 12} for digit in "12"]
    assert [read("passepartout_task_requests_total", one) for one in labels] == [1, 1]
    assert [read("passepartout_task_latency_seconds_sum", one) for one in labels] == [1, 0.1]
    coded = [one | {"code": "internal_error"} for one in labels]
    assert [read("passepartout_task_errors_total", one) for one in coded] == [None, 1]


def test_of_many_versions_those_that_are_gone_are_forgotten() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics({"a", "b"}.__contains__, registry)
    one_request(metrics, "b", "ff" * 32)
    digests = [f"{number:02}" * 32 for number in range(3 * MOST_VERSIONS)]
    for digest in digests:
        metrics.store({"a": {digests[0]: True, digest: True}}, faulty=0)
        one_request(metrics, "a", digest)
    expected = {digest[:12] for digest in (digests[0], *digests[1 - MOST_VERSIONS :])}
    names = {f"passepartout_task_{name}" for name in ("requests", "errors", "latency_seconds")}
    assert versions_in(registry, "a") == dict.fromkeys(names, expected)
    assert versions_in(registry, "b") == {name: {"ff" * 6} for name in names}
    one_request(metrics, "a", digests[1])  # one that is drained answers late
    assert len(versions_in(registry, "a")["passepartout_task_requests"]) == MOST_VERSIONS


def test_more_versions_than_may_have_a_label_share_one() -> None:
    labels = VersionLabels(lambda task, label: pytest.fail("what serves is forgotten"))
    digests = [f"{number:02}" * 32 for number in range(MOST_VERSIONS + 2)]
    labels.serve({"a": digests})
    found = [labels.label("a", digest) for digest in digests]
    assert found == [digest[:12] for digest in digests[:MOST_VERSIONS]] + ["_unknown"] * 2
    assert labels.label("b", digests[-1]) == digests[-1][:12]


def test_where_series_cannot_be_dropped_the_first_versions_keep_their_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "unused: this registry's values are in memory")
    registry = CollectorRegistry()
    metrics = TaskMetrics({"a"}.__contains__, registry)
    for number in range(MOST_VERSIONS + 2):
        one_request(metrics, "a", f"{number:02}" * 32)
    expected = {f"{number:02}" * 6 for number in range(MOST_VERSIONS)} | {"_unknown"}
    assert versions_in(registry, "a")["passepartout_task_requests"] == expected


def test_the_table_of_the_docstring_names_every_metric() -> None:
    registry = CollectorRegistry()
    TaskMetrics(lambda name: True, registry)
    rows = re.findall(
        r"^\| `(\w+)`\s*\| (\w+)\s*\| ([\w, ]*?)\s*\|", server.metrics.__doc__ or "", re.MULTILINE
    )
    documented = {f"passepartout_{name.removesuffix('_total')}": kind for name, kind, _ in rows}
    assert documented == {family.name: family.type for family in registry.collect()}
    assert len(documented) >= 9


def test_frame_time_is_observed() -> None:
    registry = CollectorRegistry()
    TaskMetrics(lambda name: name == "a", registry).frame("a", seconds=0.25)
    assert registry.get_sample_value("passepartout_frame_seconds_sum", {"task": "a"}) == 0.25
