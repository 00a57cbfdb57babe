"""The Grafana dashboard: its queries parse and ask for what exists, and a real Prometheus answers them."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from server.metrics import TaskMetrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "tasks.json").read_text(encoding="utf-8"))
LEAST_QUERIES = 37
VERSIONS = ["ab" * 32, "ef" * 32]
# Before version 3 Prometheus asks for names without a colon, so vLLM's are found by either spelling.
NAME = re.compile(r"\b(?:passepartout_|vllm\[:_\])[a-z_]+")


def queries() -> list[str]:
    """Every expression of the dashboard, as Grafana sends it for one task over a short time."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    variables = {"$__rate_interval": "4s", "$task": "glyphs"}
    for variable, value in variables.items():
        found = [expression.replace(variable, value) for expression in found]
    return found


def names_in(text: str) -> set[str]:
    """The metrics that a query asks for, vLLM's as vLLM spells them."""
    return {name.replace("[:_]", ":") for name in NAME.findall(text)}


def populated() -> tuple[CollectorRegistry, TaskMetrics, Counter]:
    """Our metrics and the few of vLLM's that the dashboard shows, each with traffic and a swap."""
    registry = CollectorRegistry()
    metrics = TaskMetrics({"glyphs"}.__contains__, registry)
    for digests in (["cd" * 32], VERSIONS):
        metrics.store({"glyphs": dict.fromkeys(digests, True)}, faulty=1)
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        Gauge(f"vllm:{name}", "as vLLM has it", ["engine"], registry=registry).labels("0").set(0.5)
    Counter("vllm:prefix_cache_hits", "as vLLM has it", ["engine"], registry=registry).labels("0").inc(5)
    asked = Counter("vllm:prefix_cache_queries", "as vLLM has it", ["engine"], registry=registry)
    make_traffic(metrics, asked)
    return registry, metrics, asked


def make_traffic(metrics: TaskMetrics, asked: Counter) -> None:
    """Three good requests, and one refused of the second version."""
    for digest, code in ((VERSIONS[0], None), (VERSIONS[0], None), (VERSIONS[1], None), (VERSIONS[1], "x")):
        metrics.request_started("glyphs", digest)
        metrics.first_token("glyphs", seconds=0.1, streamed=True)
        metrics.request_ended("glyphs", digest, seconds=0.2, error_code=code)
    metrics.tokens("glyphs", prompt=70, cached=10, completion=5)
    metrics.frame("glyphs", seconds=0.002)
    metrics.load("glyphs", "host", 0.003)
    metrics.canary("glyphs", "passed", 0.25)
    metrics.refused("overloaded")
    metrics.queue(under_way=3, waiting=1)
    asked.labels("0").inc(10)


def names_and_labels(registry: CollectorRegistry) -> dict[str, set[str]]:
    return {
        sample.name: set(sample.labels) | {"job", "instance"}
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_discovery_finds_the_queries() -> None:
    assert len(queries()) >= LEAST_QUERIES


@pytest.mark.parametrize("expression", queries())
def test_a_query_parses_and_asks_for_what_is_there(expression: str) -> None:
    promql_parser.parse(expression)
    known = names_and_labels(populated()[0])
    names = names_in(expression)
    assert names
    assert names <= set(known)
    labels = set(re.findall(r"([a-z_]+)=~?\"", expression)) - {"__name__"}
    labels |= {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    assert labels <= set.union(*(known[name] for name in names))


def test_every_metric_of_ours_is_shown() -> None:
    shown = names_in(" ".join(queries()))
    families = {family.name for family in populated()[0].collect() if family.name.startswith("passepartout_")}
    assert len(families) >= 16
    missing = {family for family in families if not any(name.startswith(family) for name in shown)}
    assert missing == set()


def test_vllm_still_has_the_metrics_that_are_shown() -> None:
    package = find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "v1" / "metrics" / "loggers.py").read_text(encoding="utf-8")
    shown = {name.removesuffix("_total") for name in names_in(" ".join(queries())) if ":" in name}
    assert len(shown) == 5
    assert {name for name in shown if f'name="{name}"' not in source} == set()


def test_each_task_has_a_row_of_its_own() -> None:
    rows = [panel for panel in DASHBOARD["panels"] if panel.get("repeat") == "task"]
    assert [row["type"] for row in rows] == ["row"]
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["task"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_datasource_is_the_one_provisioned() -> None:
    folder = DEPLOY / "grafana" / "provisioning" / "datasources"
    source = yaml.safe_load((folder / "prometheus.yaml").read_text())["datasources"][0]
    used = {
        target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
    }
    assert used == {source["uid"]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask(address: str, path: str, **parameters: str) -> Any:
    url = f"http://{address}{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prometheus with our own configuration, scraping made-up traffic."""
    if shutil.which("prometheus") is None:
        pytest.skip("no `prometheus` on the path (Debian's package of that name)")
    registry, metrics, asked = populated()
    server, thread = start_http_server(0, "127.0.0.1", registry)
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.server_port}"]}]
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        wait_for_scrapes(address, lambda: make_traffic(metrics, asked), folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def wait_for_scrapes(address: str, between: Any, log: Path, seconds: float = 60) -> None:
    """Until three scrapes were good, with traffic in between, so that rates are known."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        between()
        time.sleep(0.5)
        try:
            scrapes = ask(address, "/api/v1/query", query="sum(count_over_time(up[1m]) * up)")["result"]
        except OSError:
            continue
        if scrapes and float(scrapes[0]["value"][1]) >= 3:
            return
    pytest.fail(f"Prometheus scraped nothing in {seconds} s: {log.read_text()[-2000:]}")


def test_a_real_prometheus_answers_every_query(prometheus: str) -> None:
    silent = [
        expression
        for expression in queries()
        if not ask(prometheus, "/api/v1/query", query=expression)["result"]
    ]
    assert silent == []


def test_the_two_sides_of_a_split_are_compared(prometheus: str) -> None:
    """A version without errors is told too: its share is 0, not unknown."""
    by_version = [expression for expression in queries() if "by (version)" in expression]
    share = next(expression for expression in by_version if "errors" in expression)
    found = ask(prometheus, "/api/v1/query", query=share)["result"]
    values = {one["metric"]["version"]: float(one["value"][1]) for one in found}
    assert values == {"ab" * 6: 0.0, "ef" * 6: pytest.approx(0.5, abs=0.1)}
    latency = next(expression for expression in queries() if "(le, version)" in expression)
    asked = ask(prometheus, "/api/v1/query", query=latency)["result"]
    assert {one["metric"]["version"] for one in asked} == {"ab" * 6, "ef" * 6}


def test_the_task_variable_lists_the_tasks(prometheus: str) -> None:
    values = ask(prometheus, "/api/v1/label/task/values", **{"match[]": "passepartout_task_requests_total"})
    assert values == ["glyphs"]
