"""The real server under load while its store changes: every answer is the one of the digest it names.

Each version of a task answers in its own way (random prompts on a tiny random model; the test checks that
no two agree, and that each is what plain transformers say). Clients ask with text and with one and the same
picture, the worst case for vLLM's caches: whole blocks of every prompt, learned rows in front, are cached.
"""

import asyncio
import base64
import io
import itertools
import random
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
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
STEADY = ["deep", "framed", "texty"]
"""Swapped all the time, but always there."""
FLEETING = "fleeting"
"""Swapped, deleted and put back: may be unknown at any time."""
TASKS = [*STEADY, FLEETING]
HURRIED = "texty"
"""Of those the one that is swapped whether the server has seen the last swap or not."""
VERSIONS = 3
SHORTEST, TOKENS = 6, 12
"""The fewest and the most tokens asked for."""
BLOCK = 32
"""Tokens of a block of vLLM's prefix cache: the smallest a CPU takes."""
STORE_SECONDS = 0.2
ANSWERS = 5000
CLIENTS = 16
TEXT = " ".join(["hello there, how are you today?"] * 5)
PICTURE = " ".join(["name the bird in the picture."] * 3)
CONTENT: dict[str, Any] = {"text": TEXT, "picture": with_url(picture_url((80, 60)), PICTURE)}
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
    options += ["--max-host-tasks", "2", "--store-seconds", str(STORE_SECONDS), "--block-size", str(BLOCK)]
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


@dataclass
class Change:
    """A change of the store: `kind` is load, swap or drain, `wanted` the digest to come, None for none."""

    kind: str
    wanted: str | None
    since: float


@dataclass
class Changes:
    """`seconds` from a rename to what the server does, by kind; `open`: not seen yet, by name."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    open: dict[str, Change] = field(default_factory=dict)

    def see(self, served: dict[str, str], asked: dict[str, Change]) -> None:
        """What the server serves, name -> digest, told after those changes."""
        for name, change in asked.items():
            if served.get(name) == change.wanted:
                self.seconds[change.kind].append(time.monotonic() - change.since)
                del self.open[name]


def test_no_answer_is_ever_another_digests(root: Path, url: str) -> None:
    reference = asyncio.run(learn(root, url))
    for kind in CONTENT:
        told = [tuple(answer[:SHORTEST]) for (_, asked), answer in reference.items() if asked == kind]
        assert len(set(told)) == len(told), "two versions answer alike, the test could not tell them apart"
    check_against_transformers(root, reference)
    before = prefix_cache_hits(url)
    tally, changes = asyncio.run(soak(root, url, reference))
    assert tally.wrong == []
    hits = (prefix_cache_hits(url) - before) / tally.count
    print(f"{hits:.1f} tokens of each prompt came from vLLM's prefix cache")
    assert hits > BLOCK / 4, "a quarter of all answers began from a cached block"
    check_seconds(changes)
    assert tally.count >= ANSWERS
    served = {digest for digest, _ in tally.answers}
    assert len(served) == VERSIONS * len(TASKS), "every version was met under load"
    put(root, *TASKS, version=0)
    wait_for(root, url)
    assert httpx.get(f"{url}/ready").json()["status"] == "ready"


async def learn(root: Path, url: str) -> dict[Asked, list[int]]:
    """What each version says when it is asked alone."""
    reference: dict[Asked, list[int]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for version in range(VERSIONS):
            put(root, *TASKS, version=version)
            await asyncio.to_thread(wait_for, root, url)
            for name, kind in itertools.product(TASKS, CONTENT):
                response = await client.post(CHAT, json=asking(name, kind, TOKENS))
                assert response.status_code == 200, response.text
                digest = response.headers["X-Task-Digest"]
                reference[digest, kind] = response.json()["choices"][0]["token_ids"]
    return reference


def check_against_transformers(root: Path, reference: dict[Asked, list[int]]) -> None:
    """Every version's answers."""
    oracle = Oracle(root / "model")
    picture = Image.open(io.BytesIO(base64.b64decode(picture_url((80, 60)).partition(",")[2])))
    asked = {"text": (TEXT, []), "picture": (f"<image>\n{PICTURE}", [picture])}
    folders = [root / "pool" / str(version) / name for version in range(VERSIONS) for name in TASKS]
    assert len(reference) == len(folders) * len(asked)
    for folder, (kind, (text, pictures)) in itertools.product(folders, asked.items()):
        bundle = load_bundle(folder)
        expected = oracle.answer(f"USER: {text} ASSISTANT:", pictures, bundle, tokens=TOKENS)
        assert reference[bundle.digest, kind] == expected.tokens, f"{folder.name} {kind}"


def prefix_cache_hits(url: str) -> float:
    """Tokens that vLLM took from its prefix cache so far."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=20).text)
    samples = (sample for family in families for sample in family.samples)
    return sum(one.value for one in samples if one.name == "vllm:prefix_cache_hits_total")


def check_seconds(changes: Changes) -> None:
    """Of each kind of change there were some, and half of them were acted on soon."""
    assert sorted(changes.seconds) == ["drain", "load", "swap"]
    for kind, seconds in changes.seconds.items():
        median = statistics.median(seconds)
        print(f"{kind}: {len(seconds)} changes, median {median:.2f} s, longest {max(seconds):.2f} s")
        assert median < STORE_SECONDS + 2, kind


async def soak(root: Path, url: str, reference: dict[Asked, list[int]]) -> tuple[Tally, Changes]:
    """Clients ask without a pause until there are enough answers; meanwhile the store never rests."""
    tally, changes = Tally(), Changes()
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        changing = asyncio.create_task(change_store(root, changes))
        watching = asyncio.create_task(watch(url, changes))
        try:
            clients = [ask(client, random.Random(seed), reference, tally) for seed in range(CLIENTS)]
            await asyncio.gather(*clients)
        finally:
            changing.cancel()
            await asyncio.wait([changing])
        async with asyncio.timeout(30):
            while changes.open:
                await asyncio.sleep(0.05)
        watching.cancel()
    return tally, changes


async def watch(url: str, changes: Changes) -> None:
    """Looks all the time what the server serves."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        while True:
            await asyncio.sleep(0.05)
            if changes.open:
                asked = dict(changes.open)
                served = (await client.get("/ready")).json()["tasks"]
                changes.see(served, asked)


async def ask(
    client: httpx.AsyncClient, chance: random.Random, reference: dict[Asked, list[int]], tally: Tally
) -> None:
    while tally.count < ANSWERS and not tally.wrong:
        name, kind = chance.choice(TASKS), chance.choice(list(CONTENT))
        tokens = chance.choice([SHORTEST, SHORTEST + 2, TOKENS])
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


async def change_store(root: Path, changes: Changes) -> None:
    """Puts in another version, or takes the fleeting task away, a few times a second."""
    chance = random.Random(0)
    held: dict[str, int | None] = dict.fromkeys(TASKS, VERSIONS - 1)
    digests = {
        (name, version): load_bundle(root / "pool" / str(version) / name).digest
        for name, version in itertools.product(TASKS, range(VERSIONS))
    }
    while True:
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        name = chance.choice([name for name in TASKS if name not in changes.open])
        before = held[name]
        others = [version for version in range(VERSIONS) if version != before]
        version = chance.choice(others)
        if name == FLEETING and before is not None and chance.random() < 0.5:
            held[name], kind, wanted = None, "drain", None
            since = await asyncio.to_thread(take, root, name)
        else:
            held[name], kind, wanted = version, "load" if before is None else "swap", digests[name, version]
            since = await asyncio.to_thread(put, root, name, version=version)
        if name != HURRIED:
            changes.open[name] = Change(kind, wanted, since)


def put(root: Path, *names: str, version: int) -> float:
    """Have the store hold that version: copied beside, then moved there; gives the time of the last move."""
    since = 0.0
    for name in names:
        draft = root / "tasks" / f".{name}.new"
        shutil.copytree(root / "pool" / str(version) / name, draft)
        take(root, name)
        since = time.monotonic()
        draft.rename(root / "tasks" / name)
    return since


def take(root: Path, name: str) -> float:
    """Moves a task's folder out of the store; gives the time of that."""
    folder, aside = root / "tasks" / name, root / "tasks" / f".{name}.old"
    since = time.monotonic()
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)
    return since


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
