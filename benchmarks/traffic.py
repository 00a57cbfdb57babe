"""Traffic over HTTP: a closed loop of clients on `/v1/chat/completions`, and the time to a first token."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.materials import make_picture

__all__ = ["Load", "Query", "ask_all", "first_token_seconds", "make_query", "zipf_ranks"]

_TIMEOUT_SECONDS = 300.0
_PICTURE_SIDE = 56
_WORDS = ("red", "green", "small", "large", "left", "right", "near", "far", "old", "new")


@dataclass(frozen=True)
class Query:
    """A request's task and its body."""

    task: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Load:
    """How a batch of queries went: `good` of `asked` were answered whole, in `seconds`, `tokens` each."""

    asked: int
    good: int
    tokens: int
    seconds: float

    @property
    def goodput(self) -> float:
        """Answer tokens per second; a refused request adds nothing."""
        return self.good * self.tokens / self.seconds


def make_query(task: str, *, seed: int, tokens: int) -> Query:
    """A question with a picture that nobody asked before, answered in exactly `tokens` tokens."""
    generator = np.random.default_rng([3, seed])
    buffer = io.BytesIO()
    make_picture(generator, _PICTURE_SIDE).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    text = " ".join(generator.choice(_WORDS, 12))
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    body = {
        "model": "base",
        "task": task,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    return Query(task, body)


def zipf_ranks(generator: np.random.Generator, tasks: int, count: int) -> list[int]:
    """`count` ranks from 0, rank k as often as 1 / (k + 1) says among `tasks`."""
    weights = 1.0 / np.arange(1, tasks + 1)
    return [int(rank) for rank in generator.choice(tasks, count, p=weights / weights.sum())]


def ask_all(address: str, queries: Sequence[Query], *, at_once: int) -> Load:
    """Asks all, `at_once` at a time: who is answered asks the next."""
    return asyncio.run(_ask_all(address, list(queries), at_once))


async def _ask_all(address: str, queries: list[Query], at_once: int) -> Load:
    waiting = iter(queries)
    limits = httpx.Limits(max_connections=at_once)

    async def ask_one_after_another(client: httpx.AsyncClient) -> int:
        answered = 0
        for query in waiting:
            answer = await client.post("/v1/chat/completions", json=query.body)
            answered += answer.status_code == 200
        return answered

    async with httpx.AsyncClient(
        base_url=address, timeout=_TIMEOUT_SECONDS, limits=limits, trust_env=False
    ) as client:
        started = time.perf_counter()
        good = sum(await asyncio.gather(*(ask_one_after_another(client) for _ in range(at_once))))
        seconds = time.perf_counter() - started
    return Load(len(queries), good, queries[0].body["max_tokens"], seconds)


def first_token_seconds(address: str, query: Query) -> float:
    """From the request to its first token, streamed.

    Raises:
        RuntimeError: the server did not answer with a stream that has a token.
    """
    body = {**query.body, "stream": True}
    started = time.perf_counter()
    url = f"{address}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=_TIMEOUT_SECONDS, trust_env=False) as answer:
        if answer.status_code == 200:
            for line in answer.iter_lines():
                if _has_token(line):
                    return time.perf_counter() - started
        else:
            answer.read()
            raise RuntimeError(f"task {query.task}: status {answer.status_code}: {answer.text[:500]}")
    raise RuntimeError(f"task {query.task}: the stream ended without a token")


def _has_token(line: str) -> bool:
    data = line.removeprefix("data: ")
    if data == line or data == "[DONE]":
        return False
    return any(choice.get("delta", {}).get("content") for choice in json.loads(data).get("choices", ()))
