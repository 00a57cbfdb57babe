"""A thousand tasks on a device for thirty-two: every answer is right while tasks come and go under Zipf load.

Each task answers in its own way. What it must answer is said by plain transformers for some of them, cold and
hot, and for all by its own first answer: it stays the same for as long as the server runs.
"""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from prompts.bundle import load_bundle, save_bundle
from prompts.fingerprint import base_model_ref
from prompts.manifest import Manifest, TextSpec, VisionSpec
from tests.engine.oracle import Oracle
from tests.engine.tiny_llava import HIDDEN, LAYERS, VISION_HIDDEN, VISION_LAYERS, make_tiny_llava
from tests.server.real import running_server
from tests.server.test_real_server import question

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
TASKS, ON_DEVICE, IN_HOST = 1000, 32, 200
ROWS = 2
TOKENS = 6
ANSWERS = 2000
CLIENTS = 16
ZIPF = 1.1
TEXT = "hello there, how are you today?"
PINNED = "task-0999"
"""The least asked for, and yet always on the device."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a store of a thousand M²PT tasks, text and vision prompts each."""
    root = tmp_path_factory.mktemp("many")
    model = make_tiny_llava(root / "model")
    base = base_model_ref(model)
    text = TextSpec(layers=LAYERS, length=ROWS, hidden=HIDDEN)
    vision = VisionSpec(layers=VISION_LAYERS, length=1, hidden=VISION_HIDDEN, mode="paper")
    for index in range(TASKS):
        name, seed = f"task-{index:04d}", torch.Generator().manual_seed(index)
        tensors = {
            "text.prompts": torch.randn(LAYERS, ROWS, HIDDEN, generator=seed),
            "vision.prompts": torch.randn(VISION_LAYERS, 1, VISION_HIDDEN, generator=seed),
        }
        manifest = Manifest(name=name, version="1", base_model=base, text=text, vision=vision)
        save_bundle(root / "tasks" / name, manifest, tensors)
    return root


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16"]
    options += ["--max-device-tasks", str(ON_DEVICE), "--max-host-tasks", str(IN_HOST), "--pin-tasks", PINNED]
    with running_server(root / "model", root / "tasks", root / "server.log", *options) as url:
        yield url


def test_a_thousand_tasks_answer_rightly_on_a_device_for_thirty_two(root: Path, url: str) -> None:
    assert len(httpx.get(f"{url}/ready", timeout=20).json()["tasks"]) == TASKS
    names = [f"task-{index:04d}" for index in range(TASKS)]
    weights = [1 / (rank + 1) ** ZIPF for rank in range(TASKS)]
    chance = random.Random(0)
    asked = chance.choices(names, weights, k=ANSWERS)
    answers, wrong = asyncio.run(ask_all(url, asked))
    assert wrong == []
    assert len(answers) > 4 * ON_DEVICE, "more tasks than the device holds"
    assert len(set(map(tuple, answers.values()))) > 0.9 * len(answers), "tasks answer in their own ways"
    check_against_transformers(root, answers, names)
    check_tiers(url)


async def ask_all(url: str, asked: list[str]) -> tuple[dict[str, list[int]], list[str]]:
    """Name -> its answer, and every answer that was not like the first."""
    answers: dict[str, list[int]] = {}
    wrong: list[str] = []
    waiting = iter(asked)

    async def client(http: httpx.AsyncClient) -> None:
        for name in waiting:
            response = await http.post(CHAT, json=question(TEXT, task=name, max_tokens=TOKENS))
            if response.status_code != 200:
                wrong.append(f"{name}: {response.status_code} {response.text}")
                continue
            said = response.json()["choices"][0]["token_ids"]
            if answers.setdefault(name, said) != said or response.headers["X-Task"] != name:
                wrong.append(f"{name}: {answers[name]}, then {said}")

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return answers, wrong


def check_against_transformers(root: Path, answers: dict[str, list[int]], names: list[str]) -> None:
    """The most asked for and the least."""
    oracle = Oracle(root / "model")
    met = [name for name in names if name in answers]
    for name in [*met[:8], *met[-8:]]:
        bundle = load_bundle(root / "tasks" / name)
        expected = oracle.answer(f"USER: {TEXT} ASSISTANT:", [], bundle, tokens=TOKENS)
        assert answers[name] == expected.tokens, name


def check_tiers(url: str) -> None:
    """The device is full, the pinned task is there, and loads came from both tiers below."""
    tasks = httpx.get(f"{url}/v1/tasks", timeout=20).json()["data"]
    hot = {task["id"] for task in tasks if task["on_device"]}
    assert len(hot) == ON_DEVICE
    assert PINNED in hot
    loads: dict[str, float] = {}
    metrics = httpx.get(f"{url}/metrics", timeout=20).text
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "passepartout_task_load_seconds_count":
                tier = sample.labels["tier"]
                loads[tier] = loads.get(tier, 0) + sample.value
    assert loads["host"] > 0
    assert loads["store"] > ON_DEVICE
