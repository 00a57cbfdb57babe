"""Two ranks of tensor parallelism, and two engines side by side behind one server: parity on each.

On CPUs vLLM 0.32 binds each rank to a NUMA node of its own, which few machines have:
VLLM_CPU_OMP_THREADS_BIND=nobind leaves the threads where they are.
"""

import io
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prompts.bundle import Bundle
from tests.engine.beams import search_beams
from tests.engine.conftest import Serve
from tests.engine.oracle import Oracle
from tests.engine.serving import ALL_CASES, PICTURES, Case, Served, assert_same
from tests.engine.tiny_tasks import make_task
from tests.server.real import running_server

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
QUESTION = "name the bird in the picture, please, and tell me why it is one."
STORED = ("text", "both", "everything", "head")
UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture(scope="module")
def two_ranks(serve: Serve) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in UNBOUND.items():
            environment.setenv(name, value)
        with serve(enforce_eager=True, tensor_parallel_size=2, max_num_batched_tokens=64) as served:
            yield served


def test_two_ranks_answer_as_one(two_ranks: Served) -> None:
    """All cases at once, in chunks of 64 tokens, and again from the prefix cache."""
    answers = [two_ranks.expect(case) for case in ALL_CASES]
    for _ in range(2):
        for case, output, answer in zip(ALL_CASES, two_ranks.ask(ALL_CASES), answers, strict=True):
            assert_same(output, answer, case)


def test_two_ranks_hold_the_same_tasks(two_ranks: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    facts = two_ranks.tasks.llm.collective_rpc("passepartout_facts")
    assert len(facts) == 2
    assert facts[0] == facts[1]
    folder = tmp_path_factory.mktemp("late")
    two_ranks.tasks.unload(two_ranks.handles["long-text"])
    late = two_ranks.load(make_task(folder, "late", two_ranks.model, seed=77, text=6, vision=2))
    cases = [Case("late"), Case("text"), Case(None), Case("late", 0)]
    for case, output in zip(cases, two_ranks.ask(cases), strict=True):
        assert_same(output, two_ranks.expect(case), case)
    two_ranks.tasks.unload(late)


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`passepartout serve` with two engines."""
    folder = tmp_path_factory.mktemp("two-engines")
    for seed, name in enumerate(STORED, start=1):
        make_task(folder / "tasks", name, tiny_model, seed=seed, **PARTS[name])
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "8"]
    options += ["--data-parallel-size", "2"]
    log = folder / "server.log"
    with running_server(tiny_model, folder / "tasks", log, *options, variables=UNBOUND) as url:
        yield url


PARTS: dict[str, dict[str, Any]] = {
    "text": {"text": 5},
    "both": {"text": 7, "vision": 2},
    "everything": {"text": 3, "vision": 2, "projector": True, "frame": True},
    "head": {"text": 3, "lm_head": True},
}


@pytest.fixture(scope="module")
def stored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The server's bundles, byte for byte."""
    folder = tmp_path_factory.mktemp("stored")
    made = enumerate(STORED, start=1)
    return {name: make_task(folder, name, tiny_model, seed=seed, **PARTS[name]) for seed, name in made}


def body(task: str | None, pictures: int, **options: Any) -> dict[str, Any]:
    """A greedy chat; its text is `text_of`."""
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    for picture in PICTURES[:pictures]:
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        url = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    asked = {"model": "base", "messages": [{"role": "user", "content": content}], "task": task}
    return asked | {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True} | options


def text_of(pictures: int) -> str:
    return f"USER: {'<image>' + chr(10) if pictures else ''}{QUESTION} ASSISTANT:"


def ask(url: str, sent: dict[str, Any], *, engine: int | None = None) -> list[list[int]]:
    headers = {} if engine is None else {"X-data-parallel-rank": str(engine)}
    response = httpx.post(url + CHAT, json=sent, headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    return [
        choice["token_ids"] for choice in sorted(response.json()["choices"], key=lambda one: one["index"])
    ]


def test_each_of_two_engines_holds_each_task(url: str, stored: dict[str, Bundle], oracle: Oracle) -> None:
    for task in (None, *STORED):
        for pictures in (0, 1):
            bundle = stored[task] if task else None
            expected = oracle.answer(text_of(pictures), PICTURES[:pictures], bundle).tokens
            for engine in (0, 1):
                came = ask(url, body(task, pictures), engine=engine)
                assert came == [expected], (task, pictures, engine)
    metrics = httpx.get(f"{url}/metrics").text
    answered = re.findall(
        r'vllm:request_success_total\{engine="(\d)",finished_reason="length".*\} (\S+)', metrics
    )
    assert {engine: float(count) for engine, count in answered} == {"0": 10, "1": 10}


@pytest.mark.parametrize("task", [None, "text", "everything", "head"])
def test_beams_over_http(url: str, stored: dict[str, Bundle], oracle: Oracle, task: str | None) -> None:
    """Each beam is a request of its own, on whichever engine; the task goes with it."""
    width, length = 2, 4
    sent = body(task, 1, use_beam_search=True, length_penalty=0, n=width, max_tokens=length)
    bundle = stored[task] if task else None
    expected = search_beams(oracle, text_of(1), PICTURES[:1], bundle, width=width, length=length)
    assert ask(url, sent) == [tokens for tokens, _ in expected]


@pytest.mark.parametrize("task", [None, "text", "everything", "head"])
def test_n_seeded_answers_over_http(url: str, task: str | None) -> None:
    """vLLM gives the i-th of n answers the seed `seed + i`."""
    sampled = {"temperature": 1.0, "max_tokens": 6}
    together = ask(url, body(task, 1, n=3, seed=11, **sampled))
    assert together == [ask(url, body(task, 1, seed=seed, **sampled))[0] for seed in (11, 12, 13)]
    assert len({tuple(answer) for answer in together}) == 3
