"""Limits by a clock of the test's own: buckets, what is counted afterwards, requests at a time, the queue."""

from dataclasses import dataclass

import pytest

from prompts.errors import OverloadedError, RateLimitError
from server.access.gate import Gate
from server.access.limits import Account


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def account(clock: Clock, **limits: int) -> Account:
    made = Account(clock)
    made.configure(**({"requests": None, "tokens": None, "concurrency": None} | limits))
    return made


def ask(one: Account, times: int = 1) -> None:
    for _ in range(times):
        with one.admitted():
            pass


def test_requests_come_back_steadily() -> None:
    clock = Clock()
    one = account(clock, requests=30)
    ask(one, 30)
    with pytest.raises(RateLimitError, match="at most 30 requests per minute") as caught:
        ask(one)
    assert caught.value.retry_seconds == pytest.approx(2.0)
    clock.now += 1.9
    with pytest.raises(RateLimitError):
        ask(one)
    clock.now += 0.1
    ask(one)
    with pytest.raises(RateLimitError):
        ask(one)
    clock.now += 1e6
    ask(one, 30)  # no more than were ever there
    with pytest.raises(RateLimitError):
        ask(one)


def test_what_is_refused_is_not_counted() -> None:
    clock = Clock()
    one = account(clock, requests=1)
    ask(one)
    for _ in range(5):
        with pytest.raises(RateLimitError):
            ask(one)
    clock.now += 60
    ask(one)


def test_tokens_are_paid_afterwards() -> None:
    clock = Clock()
    one = account(clock, tokens=600)
    ask(one)
    one.spend(599)
    ask(one)  # one is left: enough to be admitted
    one.spend(1001)
    with pytest.raises(RateLimitError, match="at most 600 tokens per minute") as caught:
        ask(one)
    assert caught.value.retry_seconds == pytest.approx(100.1)
    clock.now += 100.2
    ask(one)


def test_requests_at_a_time() -> None:
    one = account(Clock(), concurrency=2)
    with one.admitted(), one.admitted():
        with pytest.raises(RateLimitError, match="at most 2 requests at a time") as caught:
            ask(one)
        assert caught.value.retry_seconds == 1.0
    ask(one, 5)


def test_a_place_is_given_back_where_a_request_fails() -> None:
    one = account(Clock(), concurrency=1)
    for _ in range(3):
        with pytest.raises(KeyError), one.admitted():
            raise KeyError
    ask(one)


def test_the_headers_are_openais() -> None:
    clock = Clock()
    one = account(clock, requests=60, tokens=1200)
    ask(one, 3)
    one.spend(2000)
    assert one.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "57",
        "x-ratelimit-reset-requests": "3.000s",
        "x-ratelimit-limit-tokens": "1200",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "100.000s",
    }
    clock.now += 60
    assert one.headers()["x-ratelimit-remaining-tokens"] == "400"
    assert account(clock).headers() == {}


def test_another_limit_forgives_nothing() -> None:
    clock = Clock()
    one = account(clock, requests=10)
    ask(one, 8)
    one.configure(requests=20, tokens=None, concurrency=None)
    assert one.headers()["x-ratelimit-remaining-requests"] == "12"
    one.configure(requests=5, tokens=None, concurrency=None)
    with pytest.raises(RateLimitError):
        ask(one)


def test_the_queue_is_bounded_and_its_places_come_back() -> None:
    clock = Clock()
    gate = Gate(clock, running=2, queued=1)
    with gate.entered(), gate.entered(), gate.entered():
        assert gate.waiting == 1
        with pytest.raises(OverloadedError, match="at most 1 requests waiting"):
            gate.require_room()
        with pytest.raises(OverloadedError), gate.entered():
            raise AssertionError
    assert (gate.under_way, gate.waiting) == (0, 0)
    gate.require_room()


def test_when_to_come_again_follows_how_long_requests_take() -> None:
    clock = Clock()
    gate = Gate(clock, running=1, queued=1)

    def wait() -> float:
        with gate.entered(), gate.entered(), pytest.raises(OverloadedError) as caught:
            gate.require_room()
        return caught.value.retry_seconds

    first = wait()
    for _ in range(20):
        with gate.entered():
            clock.now += 10
    assert first < 3 < wait() < 25
    for _ in range(50):
        with gate.entered():
            clock.now += 1e4
    assert wait() == 60.0
