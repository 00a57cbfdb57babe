"""Load over HTTP against a small server of the test's own: what counts as good, what as a first token."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks.traffic import Load, ask_all, first_token_seconds, make_query, zipf_ranks


class _Server(BaseHTTPRequestHandler):
    """Answers, or refuses where the task is called `refused`; `silent` streams no token."""

    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body["task"])
        self.send_response(503 if body["task"] == "refused" else 200)
        self.end_headers()
        if body.get("stream"):
            deltas = [{"role": "assistant", "content": ""}, {"content": "x"}][
                : 1 + (body["task"] != "silent")
            ]
            for delta in deltas:
                self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    _Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_each_query_is_asked_once_and_a_refused_one_is_not_good(address: str) -> None:
    tasks = ["a", "refused", "b", "c", "refused"]
    load = ask_all(address, [make_query(task, seed=1, tokens=7) for task in tasks], at_once=2)
    assert sorted(_Server.asked) == sorted(tasks)
    assert (load.asked, load.good, load.tokens) == (5, 3, 7)
    assert Load(5, 3, 7, 2.0).goodput == 10.5


def test_the_first_token_is_the_first_text_and_its_absence_is_told(address: str) -> None:
    assert first_token_seconds(address, make_query("a", seed=1, tokens=1)) > 0
    for task, said in (("refused", "503"), ("silent", "without a token")):
        with pytest.raises(RuntimeError, match=said):
            first_token_seconds(address, make_query(task, seed=1, tokens=1))


def test_no_two_queries_bring_the_same_picture_and_the_same_seed_does() -> None:
    bodies = [make_query("a", seed=seed, tokens=1).body for seed in (1, 2, 1)]
    assert bodies[0] != bodies[1]
    assert bodies[0] == bodies[2]


def test_zipf_ranks_fall_as_the_law_says() -> None:
    ranks = zipf_ranks(np.random.default_rng(0), 100, 50_000)
    counts = np.bincount(ranks, minlength=100)
    harmonic = sum(1 / rank for rank in range(1, 101))
    assert counts[0] / 50_000 == pytest.approx(1 / harmonic, rel=0.05)
    assert counts[9] / counts[0] == pytest.approx(1 / 10, rel=0.15)
    assert counts.sum() == 50_000
