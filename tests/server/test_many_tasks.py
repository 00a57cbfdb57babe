"""A thousand tasks on a device for thirty-two: every answer is right while tasks come and go under Zipf load.

Each task answers a text and a picture in its own way. What it must answer is said by plain transformers for
some of them, cold and hot, and for all by their own first answers: these stay as long as the server runs.
"""

import asyncio
import base64
import io
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from prompts.bundle import load_bundle
from tests.engine.oracle import Oracle
from tests.engine.tiny_llava import make_tiny_llava
from tests.engine.tiny_tasks import make_task
from tests.server.fake import picture_url
from tests.server.real import running_server
from tests.server.test_real_server import question, with_url

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
TASKS, ON_DEVICE, IN_HOST = 1000, 32, 200
TOKENS = 6
ANSWERS = 2000
CLIENTS = 16
ZIPF = 1.1
TEXT = "hello there, how are you today?"
PICTURE, ABOUT = picture_url((40, 30)), "name the bird in the picture."
CONTENT: dict[str, Any] = {"text": TEXT, "picture": with_url(PICTURE, ABOUT)}
Asked = tuple[str, str]
"""Task and kind of content."""
PINNED = "task-0999"
"""The least asked for, and yet always on the device."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a store of a thousand M²PT tasks: text and vision prompts each, every fifth a projector."""
    root = tmp_path_factory.mktemp("many")
    model = make_tiny_llava(root / "model")
    for index in range(TASKS):
        name, has_projector = f"task-{index:04d}", index % 5 == 0
        make_task(
            root / "tasks", name, model, seed=index, text=2, vision=1, mode="paper", projector=has_projector
        )
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
    tasks = chance.choices(names, weights, k=ANSWERS)
    answers, failed = asyncio.run(ask_all(url, [(name, chance.choice(list(CONTENT))) for name in tasks]))
    assert failed == []
    assert len({name for name, _ in answers}) > 4 * ON_DEVICE, "more tasks than the device holds"
    told = without_doubles({asked: said[0] for asked, said in answers.items()})
    assert len(told) > 0.9 * len(answers), "tasks answer in their own ways"
    assert {asked: answers[asked] for asked in told if len(set(answers[asked])) > 1} == {}
    check_against_transformers(root, told)
    check_tiers(url)


async def ask_all(url: str, questions: list[Asked]) -> tuple[dict[Asked, list[tuple[int, ...]]], list[str]]:
    """All answers to each, and what was no answer of the task that was asked."""
    answers: dict[Asked, list[tuple[int, ...]]] = defaultdict(list)
    failed: list[str] = []
    waiting = iter(questions)

    async def client(http: httpx.AsyncClient) -> None:
        for name, kind in waiting:
            response = await http.post(CHAT, json=question(CONTENT[kind], task=name, max_tokens=TOKENS))
            if response.status_code != 200 or response.headers["X-Task"] != name:
                failed.append(f"{name}: {response.status_code} {response.headers} {response.text}")
            else:
                answers[name, kind].append(tuple(response.json()["choices"][0]["token_ids"]))

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return answers, failed


def without_doubles(answers: dict[Asked, tuple[int, ...]]) -> dict[Asked, tuple[int, ...]]:
    """The answers that no other task gives to the same question: those tell a task from all others."""
    who: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for (name, kind), said in answers.items():
        who[kind, said].append(name)
    doubles = [sorted(names) for names in who.values() if len(names) > 1]
    count = sum(map(len, doubles))
    print(f"left out of {len(answers)}: {count} answers that tasks have in common: {sorted(doubles)}")
    return {(name, kind): said for (name, kind), said in answers.items() if len(who[kind, said]) == 1}


def check_against_transformers(root: Path, answers: dict[Asked, tuple[int, ...]]) -> None:
    """To each kind of question the most asked for and the least, some of them with a projector."""
    oracle = Oracle(root / "model")
    picture = Image.open(io.BytesIO(base64.b64decode(PICTURE.partition(",")[2])))
    forms = {"text": (TEXT, []), "picture": (f"<image>\n{ABOUT}", [picture])}
    for kind, (text, pictures) in forms.items():
        met = sorted(name for name, asked in answers if asked == kind)
        bundles = [load_bundle(root / "tasks" / name) for name in [*met[:8], *met[-8:]]]
        assert any(bundle.manifest.projector for bundle in bundles)
        for bundle in bundles:
            expected = oracle.answer(f"USER: {text} ASSISTANT:", pictures, bundle, tokens=TOKENS)
            assert answers[bundle.name, kind] == tuple(expected.tokens), f"{bundle.name} {kind}"


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
