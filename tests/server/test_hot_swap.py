"""The real server under load while its store changes: every answer is the one of the digest it names.

Each version of a task answers in its own way (random prompts on a tiny random model; the test checks that
no two agree). Clients ask with text and with one and the same picture, the worst case for vLLM's caches.
"""

import asyncio
import itertools
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from prompts.bundle import load_bundle
from tests.engine.tiny_llava import make_tiny_llava
from tests.engine.tiny_tasks import make_task
from tests.server.fake import picture_url
from tests.server.real import running_server
from tests.server.test_real_server import question, with_url

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
STEADY = ["deep", "framed", "texty"]
"""Swapped all the time, but always there."""
FLEETING = "fleeting"
"""Swapped, deleted and put back: may be unknown at any time."""
VERSIONS = 3
TOKENS = 12
ANSWERS = 5000
CLIENTS = 16
CONTENT: dict[str, Any] = {
    "text": "hello there, how are you today?",
    "picture": with_url(picture_url((80, 60))),
}
Asked = tuple[str, str]
"""Digest and kind of content."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, `pool/<version>/<name>` with every version there is, and a store with the first of each."""
    root = tmp_path_factory.mktemp("swap")
    model = make_tiny_llava(root / "model")
    for version in range(VERSIONS):
        folder, seed = root / "pool" / str(version), 10 * version
        make_task(folder, "texty", model, seed=seed + 1, text=4)
        make_task(folder, "deep", model, seed=seed + 2, text=3, vision=2, projector=True)
        make_task(folder, "framed", model, seed=seed + 3, text=1, frame=True)
        make_task(folder, FLEETING, model, seed=seed + 4, text=2, vision=2, mode="paper")
    shutil.copytree(root / "pool" / "0", root / "tasks")
    return root


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    """Room for little more than each task once: they leave the device and come back all the time."""
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16"]
    options += ["--text-rows", "14", "--vision-rows", "6", "--max-device-tasks", "5"]
    options += ["--max-host-tasks", "2", "--store-seconds", "0.2"]
    with running_server(root / "model", root / "tasks", root / "server.log", *options) as url:
        yield url


@dataclass
class Tally:
    """What came back."""

    answers: dict[Asked, int] = field(default_factory=dict)
    unknown: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.answers.values())


def test_no_answer_is_ever_another_digests(root: Path, url: str) -> None:
    reference = asyncio.run(learn(root, url))
    for kind in CONTENT:
        told = [tuple(answer) for (_, asked), answer in reference.items() if asked == kind]
        assert len(set(told)) == len(told), "two versions answer alike, the test could not tell them apart"
    tally = asyncio.run(soak(root, url, reference))
    assert tally.wrong == []
    assert tally.count >= ANSWERS
    served = {digest for digest, _ in tally.answers}
    assert len(served) == VERSIONS * (len(STEADY) + 1), "every version was met under load"
    put(root, *STEADY, FLEETING, version=0)
    wait_for(root, url)
    assert httpx.get(f"{url}/ready").json()["status"] == "ready"


async def learn(root: Path, url: str) -> dict[Asked, list[int]]:
    """What each version says when it is asked alone."""
    reference: dict[Asked, list[int]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for version in range(VERSIONS):
            put(root, *STEADY, FLEETING, version=version)
            await asyncio.to_thread(wait_for, root, url)
            for name, kind in itertools.product([*STEADY, FLEETING], CONTENT):
                response = await client.post(CHAT, json=asking(name, kind, TOKENS))
                assert response.status_code == 200, response.text
                digest = response.headers["X-Task-Digest"]
                reference[digest, kind] = response.json()["choices"][0]["token_ids"]
    return reference


async def soak(root: Path, url: str, reference: dict[Asked, list[int]]) -> Tally:
    """Clients ask without a pause until there are enough answers; meanwhile the store never rests."""
    tally = Tally()
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        changing = asyncio.create_task(change_store(root))
        try:
            clients = [ask(client, random.Random(seed), reference, tally) for seed in range(CLIENTS)]
            await asyncio.gather(*clients)
        finally:
            changing.cancel()
    return tally


async def ask(
    client: httpx.AsyncClient, chance: random.Random, reference: dict[Asked, list[int]], tally: Tally
) -> None:
    while tally.count < ANSWERS and not tally.wrong:
        name, kind = chance.choice([*STEADY, FLEETING]), chance.choice(list(CONTENT))
        tokens = chance.choice([1, 2, TOKENS])
        response = await client.post(CHAT, json=asking(name, kind, tokens))
        if response.status_code == 404 and name == FLEETING:
            tally.unknown += 1
        elif response.status_code != 200:
            tally.wrong.append(f"{name}: {response.status_code} {response.text}")
        else:
            digest = response.headers["X-Task-Digest"]
            said, wanted = response.json()["choices"][0]["token_ids"], reference[digest, kind][:tokens]
            if said != wanted:
                tally.wrong.append(f"{name} {digest[:8]} {kind}: expected {wanted}, came {said}")
            tally.answers[digest, kind] = tally.answers.get((digest, kind), 0) + 1


async def change_store(root: Path) -> None:
    """Puts in another version, or takes the fleeting task away, a few times a second."""
    chance = random.Random(0)
    while True:
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        name = chance.choice([*STEADY, FLEETING])
        if name == FLEETING and chance.random() < 0.5:
            await asyncio.to_thread(take, root, FLEETING)
        else:
            await asyncio.to_thread(put, root, name, version=chance.randrange(VERSIONS))


def put(root: Path, *names: str, version: int) -> None:
    """Have the store hold that version: copied beside, then moved there."""
    for name in names:
        draft = root / "tasks" / f".{name}.new"
        shutil.copytree(root / "pool" / str(version) / name, draft)
        take(root, name)
        draft.rename(root / "tasks" / name)


def take(root: Path, name: str) -> None:
    folder, aside = root / "tasks" / name, root / "tasks" / f".{name}.old"
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)


def wait_for(root: Path, url: str) -> None:
    """Until the server serves what the store holds; ten looks at the store are plenty."""
    wanted = {folder.name: load_bundle(folder).digest for folder in (root / "tasks").glob("[!.]*")}
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        state = httpx.get(f"{url}/ready").json()
        if state["tasks"] == wanted and not state["refused"]:
            return
        time.sleep(0.1)
    raise AssertionError(f"the server serves {state}, the store holds {wanted}")


def asking(name: str, kind: str, tokens: int) -> dict[str, Any]:
    return question(CONTENT[kind], task=name, max_tokens=tokens)
