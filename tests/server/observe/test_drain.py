"""A server that is told to stop: what is under way ends, nothing new begins, /ready says so at once."""

import asyncio
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from server.access.gate import Gate
from server.vllm_engine import watch_shutdown
from tests.server.access.guarded import CHAT, QUESTION, Guarded, code

HEADERS = {"Authorization": "Bearer key-of-all"}


def stopping(gate: Gate, *, seconds: float) -> SimpleNamespace:
    """An engine that notes with what timeouts it was shut down."""
    engine = SimpleNamespace(stopped=[])
    engine.shutdown = lambda timeout=None: engine.stopped.append(timeout)
    watch_shutdown(engine, gate, seconds=seconds)
    return engine


def test_a_stream_ends_before_the_engine_stops(guarded: Guarded) -> None:
    """As vLLM's server does it: `shutdown` in a thread, while the event loop goes on."""
    gate, engine = guarded.server.service.access.gate, guarded.server.engine
    stopped = stopping(gate, seconds=20)
    engine.hold_after = 1

    async def story(client: httpx.AsyncClient) -> None:
        asked = asyncio.create_task(client.post(CHAT, json=QUESTION | {"stream": True}, headers=HEADERS))
        while not gate.under_way:
            await asyncio.sleep(0.01)
        ending = asyncio.get_running_loop().run_in_executor(None, stopped.shutdown, 20)
        while not gate.is_closed:
            await asyncio.sleep(0.01)
        refused = await client.post(CHAT, json=QUESTION, headers=HEADERS)
        assert code(refused) == (503, "draining")
        assert refused.headers["Retry-After"] == "1"
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert (await client.get("/v1/tasks", headers=HEADERS)).status_code == 200
        await asyncio.sleep(0.1)
        assert stopped.stopped == []
        engine.hold_after = None
        answer = await asked
        assert answer.text.endswith("data: [DONE]\n\n")
        await ending
        assert len(stopped.stopped) == 1
        assert 0 < stopped.stopped[0] <= 20

    guarded.run(story)
    metrics = guarded.server.registry
    assert metrics.get_sample_value("passepartout_refusals_total", {"code": "draining"}) == 1


def test_it_waits_no_longer_than_it_may() -> None:
    gate = Gate(time.monotonic, running=1, queued=0)
    engine = stopping(gate, seconds=0.1)
    with gate.entered():
        thread = threading.Thread(target=engine.shutdown, kwargs={"timeout": 60})
        thread.start()
        thread.join(20)
    assert engine.stopped == [0.0]


def test_in_the_event_loop_it_waits_for_nothing() -> None:
    """There vLLM calls it once more, when the server has stopped, and waiting would hold the answers up."""
    gate = Gate(time.monotonic, running=1, queued=0)
    engine = stopping(gate, seconds=3600)

    async def stop() -> None:
        with gate.entered():
            engine.shutdown(timeout=None)

    asyncio.run(stop())
    assert engine.stopped == [None]


def test_the_gate_tells_how_many_are_inside(guarded: Guarded) -> None:
    service = guarded.server.service
    service.access.gate = Gate(time.monotonic, running=1, queued=3)
    service.watch_queue()

    def read() -> list[float | None]:
        return [
            service.registry.get_sample_value(f"passepartout_{name}") for name in ("under_way", "waiting")
        ]

    with service.access.gate.entered():
        with service.access.gate.entered():
            assert read() == [2, 1]
        assert read() == [1, 0]
    assert read() == [0, 0]


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        (None, {}, "invalid_api_key"),
        ("one", {}, None),
        ("slow", {}, "rate_limit_exceeded"),
        ("all", {}, "overloaded"),
    ],
)
def test_who_is_turned_away_is_counted_by_reason(
    guarded: Guarded, key: str | None, body: dict[str, object], reason: str | None
) -> None:
    """A task that the key does not list is an error of a task, counted there."""
    if key == "slow":
        guarded.ask(key)
    if key == "all":
        guarded.server.service.access.gate = Gate(time.monotonic, running=1, queued=0)
        guarded.server.service.access.gate.under_way = 1
    assert guarded.ask(key, **body).status_code >= 400
    found = {
        sample.labels["code"]: sample.value
        for family in guarded.server.registry.collect()
        for sample in family.samples
        if sample.name == "passepartout_refusals_total"
    }
    assert found == ({} if reason is None else {reason: 1})
