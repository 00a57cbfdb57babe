"""The real server, started once as a user starts it: a tiny random LLaVA, bundles that cannot be confused."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from prompts.bundle import load_bundle, save_bundle
from prompts.errors import UnsupportedError
from prompts.fingerprint import base_model_ref
from prompts.manifest import Manifest, TextSpec, Usage
from server.access.policy import ROUTE_LEVELS
from server.surface import ROUTES, WITHOUT_TASK
from tests.engine.canaries import canary_of, with_canary
from tests.engine.serving import make_picture
from tests.engine.tiny_llava import HIDDEN, LAYERS, make_tiny_llava
from tests.engine.tiny_tasks import make_task
from tests.prompts.sample import edit_json
from tests.server.access.real_checks import cached_by_key, require_a_user_to_be_one
from tests.server.access.test_keys import entry, write
from tests.server.clients.real_checks import TOOL_OPTIONS, require_the_surface
from tests.server.fake import picture_url
from tests.server.observe.collector import Collector
from tests.server.observe.real_checks import require_drain, require_spans_and_lines
from tests.server.real import running_server
from tests.server.real_asking import CHAT, FIRST, code_of, ids, picture, question, with_url
from tests.server.test_pictures import cut, data_url, huge_png
from tests.training.local_scores import local_scores, worst_gap
from training.backbone import LlavaBackbone
from training.data import Example
from training.served import ServedModel

pytestmark = pytest.mark.engine

KEY = "a-key-of-the-test"
RESIDENT = ["classes", "deep", "framed", "spoken", "texty"]
TEXT_ROWS = 4


def save_asked(folder: Path, name: str, model: Path, usage: Usage) -> None:
    """A bundle of random text prompts that says how it wants to be asked."""
    manifest = Manifest(
        name=name,
        version="1",
        base_model=base_model_ref(model),
        text=TextSpec(layers=LAYERS, length=TEXT_ROWS, hidden=HIDDEN),
        usage=usage,
    )
    seed = torch.Generator().manual_seed(sum(name.encode()))
    prompts = torch.randn(LAYERS, TEXT_ROWS, HIDDEN, generator=seed)
    save_bundle(folder / name, manifest, {"text.prompts": prompts})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good bundles, and four bad ones: broken, of another model, of another width, of other answers."""
    root = tmp_path_factory.mktemp("real")
    model = make_tiny_llava(root / "model")
    folder = root / "tasks"
    make_task(folder, "texty", model, seed=1, text=TEXT_ROWS)
    make_task(folder, "deep", model, seed=2, text=3, vision=2, projector=True)
    make_task(folder, "framed", model, seed=3, frame=True)
    save_asked(folder, "classes", model, Usage(choices=("a heron", "seven", "water")))
    save_asked(folder, "spoken", model, Usage(system="how are you?", template="name {text} today"))
    make_task(folder, "broken", model, seed=4, text=2)
    edit_json(folder / "broken", lambda raw: raw.update(surprise=1))
    make_task(folder, "wide", model, seed=5, text=2, hidden=HIDDEN * 2)
    make_task(folder, "foreign", make_tiny_llava(root / "other", seed=9), seed=6, text=2)
    give_canaries(folder, model)
    return folder


def give_canaries(folder: Path, model: Path) -> None:
    """Five bundles get their own; one more, `strayed`, carries what another was answered."""
    backbone = LlavaBackbone.load(model, dtype="float32", device="cpu")
    for name in RESIDENT:
        bundle = load_bundle(folder / name)
        with_canary(bundle, canary_of(bundle, backbone, model), folder / name)
    strayed = make_task(folder, "strayed", model, seed=7, text=3, vision=2, projector=True)
    with_canary(strayed, canary_of(load_bundle(folder / "deep"), backbone, model), folder / "strayed")


@pytest.fixture(scope="module")
def log(store: Path) -> Path:
    return store.parent / "server.log"


@pytest.fixture(scope="module")
def url(store: Path, log: Path, collector: Collector) -> Iterator[str]:
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "8"]
    keys = [
        entry("boss", KEY, admin=True),
        entry("alone", base=True, tasks=["*"]),
        *(entry(name, base=True, tasks=["texty"], cache_group="shared") for name in ("one", "other")),
    ]
    options += ["--keys", str(write(store.parent / "keys.yaml", *keys)), "--log-format", "json"]
    options += ["--otlp-traces-endpoint", collector.url, *TOOL_OPTIONS]
    with running_server(store.parent / "model", store, log, *options) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def test_ready_names_what_serves_and_what_does_not(client: httpx.Client, store: Path, log: Path) -> None:
    response = client.get("/ready")
    body = response.json()
    assert (response.status_code, body["status"], body["model"]) == (200, "degraded", "base")
    assert body["tasks"] == {name: load_bundle(store / name).digest for name in RESIDENT}
    faults = {one["bundle"]: " ".join(one["faults"]) for one in body["refused"]}
    assert set(faults) == {"broken", "foreign", "strayed", "wide"}
    assert "surprise" in faults["broken"]
    assert "base_model.fingerprint" in faults["foreign"]
    assert f"width {HIDDEN * 2}" in faults["wide"]
    assert faults["strayed"].startswith(
        "canary.json: all inputs: expected first-token logprobs within 0.00141"
    )
    logged = log.read_text()
    assert all(f"task {name}: its canary is found again" in logged for name in RESIDENT)
    assert all(f"bundle {name} is refused" in logged for name in faults)
    assert client.get("/health").status_code == 200


def test_field_header_and_alias_name_the_same_task(client: httpx.Client) -> None:
    base = client.post(CHAT, json=question())
    assert "X-Task" not in base.headers
    ways = [
        client.post(CHAT, json=question(task="texty")),
        client.post(CHAT, json=question(), headers={"X-Task": "texty"}),
        client.post(CHAT, json=question(model="base:texty")),
    ]
    assert len({tuple(ids(way)) for way in ways}) == 1
    assert ids(ways[0]) != ids(base)
    assert [way.json()["model"] for way in ways] == ["base", "base", "base:texty"]
    digest = client.get("/v1/tasks/texty").json()["digest"]
    assert {(way.headers["X-Task"], way.headers["X-Task-Digest"]) for way in ways} == {("texty", digest)}
    used = [way.json()["usage"]["prompt_tokens"] for way in (base, ways[0])]
    assert used[1] - used[0] == TEXT_ROWS


def test_a_stream_says_the_same(client: httpx.Client, url: str) -> None:
    whole = client.post(CHAT, json=question(task="texty")).json()["choices"][0]["message"]["content"]
    with client.stream("POST", CHAT, json=question(task="texty", stream=True)) as response:
        assert response.headers["X-Task"] == "texty"
        events = response.read().decode()
    assert len(re.findall(r'"delta"', events)) > 3
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as ours:
        stream = ours.chat.completions.create(
            model="base:texty",
            messages=[{"role": "user", "content": str(FIRST["content"])}],
            max_tokens=8,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        parts = [event for event in stream if event.choices]
    assert "".join(event.choices[0].delta.content or "" for event in parts) == whole
    assert {event.model for event in parts} == {"base:texty"}


def test_openai_python_asks_and_fails_as_expected(url: str) -> None:
    async def ask() -> tuple[str | None, str | None, list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as ours:
            answer = await ours.chat.completions.create(
                model="base",
                messages=[{"role": "user", "content": "what digit is this?"}],
                extra_body={"task": "classes"},
            )
            with pytest.raises(openai.NotFoundError) as caught:
                await ours.chat.completions.create(
                    model="base", messages=[{"role": "user", "content": "?"}], extra_body={"task": "nosuch"}
                )
            names = [model.id async for model in ours.models.list()]
        return answer.choices[0].message.content, caught.value.code, names

    content, code, names = asyncio.run(ask())
    assert (content in ("a heron", "seven", "water"), code) == (True, "task_not_found")
    assert names == ["base", *(f"base:{name}" for name in RESIDENT)]
    require_the_surface(url, KEY, rows=TEXT_ROWS)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, {"task": "nosuch"}, (404, "task_not_found")),
        (CHAT, {"model": "base:nosuch", "stream": True}, (404, "task_not_found")),
        (CHAT, {"task": "broken"}, (404, "task_not_found")),
        (CHAT, {"task": "texty", "model": "base:deep"}, (400, "task_conflict")),
        (CHAT, {"task": ""}, (400, "invalid_input")),
        (CHAT, {"task": 3}, (400, "invalid_input")),
        (CHAT, {"task": "framed"}, (400, "picture_required")),
        ("/v1/completions", {"task": "framed", "prompt": "x"}, (400, "picture_required")),
        ("/v1/responses", {"task": "nosuch", "input": "x"}, (404, "task_not_found")),
        ("/v1/messages", {"task": "nosuch"}, (404, "task_not_found")),
        ("/v1/messages", {"task": "classes"}, (400, "unsupported")),
        ("/inference/v1/generate", {"task": "texty"}, (400, "unsupported")),
        ("/invocations", {"task": "nosuch"}, (404, "task_not_found")),
        ("/tokenize", {"task": "nosuch"}, (404, "task_not_found")),
    ],
)
def test_a_wrong_task_is_refused_on_every_route(
    client: httpx.Client, path: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code_of(client.post(path, json=question(**body))) == expected


def test_without_the_key_nothing_is_told_of_tasks(url: str) -> None:
    for path, body in ((CHAT, question(task="nosuch")), (CHAT, question(task="texty"))):
        response = httpx.post(url + path, json=body)
        assert response.status_code == 401
        assert "X-Task" not in response.headers
    assert httpx.get(f"{url}/v1/tasks").status_code == 401
    assert httpx.get(f"{url}/ready").status_code == 200


def test_choices_constrain_whichever_way_it_is_asked(client: httpx.Client) -> None:
    choices = {"a heron", "seven", "water"}
    free = question("what digit is this?", response_format={"type": "text"}, task="classes")
    assert client.post(CHAT, json=free).json()["choices"][0]["message"]["content"] not in choices
    asked = {"task": "classes", "temperature": 0}
    chat = client.post(CHAT, json=asked | {"messages": [FIRST]}).json()
    assert chat["choices"][0]["message"]["content"] in choices
    picture_chat = client.post(
        CHAT, json=asked | {"messages": [{"role": "user", "content": picture()}]}
    ).json()
    assert picture_chat["choices"][0]["message"]["content"] in choices
    completion = client.post("/v1/completions", json=asked | {"prompt": "x"}).json()
    assert completion["choices"][0]["text"] in choices
    response = client.post("/v1/responses", json=asked | {"input": "x"}).json()
    assert response["output"][0]["content"][0]["text"] in choices
    batch = client.post(f"{CHAT}/batch", json=asked | {"messages": [[FIRST], [FIRST]]}).json()
    assert {one["message"]["content"] for one in batch["choices"]} <= choices
    own = client.post(
        CHAT, json=asked | {"messages": [FIRST], "structured_outputs": {"choice": ["yes"]}}
    ).json()
    assert own["choices"][0]["message"]["content"] == "yes"


def test_system_and_template_reach_the_model(client: httpx.Client) -> None:
    explicit = [{"role": "system", "content": "how are you?"}, {"role": "user", "content": "name x today"}]
    plain = client.post("/tokenize", json={"messages": explicit}).json()["tokens"]
    asked = client.post("/tokenize", json={"messages": [{"role": "user", "content": "x"}], "task": "spoken"})
    assert asked.json()["tokens"][TEXT_ROWS:] == plain


@pytest.fixture(scope="module")
def backbone(store: Path) -> LlavaBackbone:
    return LlavaBackbone.load(store.parent / "model", dtype="float32", device="cpu")


@pytest.mark.parametrize("task", [None, "texty", "deep", "framed", "spoken"])
def test_choices_score_as_on_transformers(
    url: str, store: Path, backbone: LlavaBackbone, task: str | None
) -> None:
    """The trainers' own measure, with learned rows, frames, system messages and templates in the way."""
    pictures = [make_picture(3), make_picture(4), *([None] if task != "framed" else [])]
    choices = ("a heron", "seven", "well, thank you")
    examples = [Example(one, "name the bird in the picture.", "", choices) for one in pictures]
    ours = local_scores(backbone, load_bundle(store / task) if task else None, examples)
    with ServedModel(url, task=task, api_key=KEY) as served:
        theirs = list(served.score_choices(examples))
    assert worst_gap(ours, theirs) < 1e-4
    if task is not None:
        assert worst_gap(local_scores(backbone, None, examples), theirs) > 1e-2


def test_choices_are_not_scored_where_the_template_puts_a_space_that_no_answer_has(url: str) -> None:
    words = "choice 'seven': expected 'seven' after the question, came ' seven'"
    with ServedModel(url, task="classes", api_key=KEY) as served:
        with pytest.raises(UnsupportedError, match=words):
            list(served.score_choices([Example(None, "what digit is this?", "", ("seven",))]))
        assert set(served.structured([Example(None, "x", "")])) < {"a heron", "seven", "water"}


def test_a_frame_changes_what_is_seen(client: httpx.Client) -> None:
    answers = [client.post(CHAT, json=question(picture(), task=task)) for task in (None, "framed", "deep")]
    assert len({tuple(ids(answer)) for answer in answers}) == 3
    again = client.post(CHAT, json=question(picture(), task="framed"))
    assert ids(again) == ids(answers[1])


@pytest.mark.parametrize("task", [None, "framed", "deep"])
@pytest.mark.parametrize(
    "sent",
    [
        data_url(b"no picture"),
        data_url(huge_png()),
        cut(picture_url((300, 200))),
        cut(picture_url((300, 200), "JPEG")),
        "data:image/png;base64,####",
        "file:///etc/passwd",
    ],
    ids=["bytes", "huge", "cut png", "cut jpeg", "not base64", "file"],
)
def test_a_bad_picture_is_400_by_name(client: httpx.Client, task: str | None, sent: str) -> None:
    response = client.post(CHAT, json=question(with_url(sent), task=task))
    assert code_of(response) == (400, "picture_invalid")
    message = response.json()["error"]["message"]
    assert message.startswith("messages[0].content[0].image_url: ")
    assert "object at" not in message


def test_tasks_and_previews_are_shown(client: httpx.Client) -> None:
    assert [task["id"] for task in client.get("/v1/tasks").json()["data"]] == RESIDENT
    preview = client.get("/v1/tasks/framed/preview.png")
    assert preview.content.startswith(b"\x89PNG")
    assert code_of(client.get("/v1/tasks/texty/preview.png")) == (404, "task_has_no_frame")
    assert code_of(client.get("/v1/tasks/nosuch")) == (404, "task_not_found")
    cards = client.get("/v1/models").json()["data"]
    assert {card["id"]: card["parent"] for card in cards} == {
        "base": None,
        **{f"base:{name}": "base" for name in RESIDENT},
    }


def test_mixed_requests_at_once_answer_what_they_answer_alone(client: httpx.Client, url: str) -> None:
    asked = [
        question(content, task=task) for task in (None, "texty", "deep", "spoken") for content in ("x", "y z")
    ]
    asked += [
        question(picture(size), task=task) for task in (None, "framed", "deep") for size in ((80, 60), (9, 9))
    ]
    alone = [ids(client.post(CHAT, json=body)) for body in asked]
    assert len({tuple(one) for one in alone}) > len(asked) // 2

    async def ask_all() -> list[list[int]]:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, timeout=120, headers=headers) as many:
            answers = await asyncio.gather(*(many.post(CHAT, json=body) for body in asked * 2))
        tasks = [body["task"] for body in asked * 2]
        assert [answer.headers.get("X-Task") for answer in answers] == tasks
        return [ids(answer) for answer in answers]

    assert asyncio.run(ask_all()) == alone * 2


def test_metrics_stand_beside_vllms(client: httpx.Client) -> None:
    def read() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        split = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in split}

    before = read()
    version = client.post(CHAT, json=question(picture((70, 50)), task="framed")).headers["X-Task-Digest"][:12]
    client.post(CHAT, json=question(picture((71, 51)), task="framed", stream=True))
    client.post(CHAT, json=question(task="invented-by-a-client"))
    after = read()

    def grown(name: str) -> float:
        return after[f"passepartout_{name}"] - before.get(f"passepartout_{name}", 0.0)

    assert grown(f'task_requests_total{{task="framed",version="{version}"}}') == 2
    assert grown(f'task_latency_seconds_count{{task="framed",version="{version}"}}') == 2
    assert grown('task_ttft_seconds_count{stream="true",task="framed"}') == 1
    assert grown('task_ttft_seconds_count{stream="false",task="framed"}') == 1
    assert grown('task_tokens_total{kind="completion",task="framed"}') == 16
    assert grown('task_tokens_total{kind="prompt",task="framed"}') > 32
    assert grown('frame_seconds_count{task="framed"}') == 2
    assert grown('task_errors_total{code="task_not_found",task="_unknown",version=""}') == 1
    assert after['passepartout_tasks{state="faulty"}'] == 4
    assert not any("invented" in name for name in after)
    assert any(name.startswith("vllm:") for name in after)


@pytest.mark.parametrize("task", [None, "texty"])
def test_tenants_share_a_prefix_only_where_they_are_told_to(client: httpx.Client, task: str | None) -> None:
    cached = cached_by_key(client, task, ["alone", "one", "alone", "other", "one"])
    assert [tokens >= 128 for tokens in cached] == [False, False, True, True, True]


def test_a_user_neither_rules_nor_has_vllm_fetch_anything(url: str) -> None:
    require_a_user_to_be_one(url, "alone")


def test_every_route_of_vllms_is_known(client: httpx.Client, log: Path) -> None:
    """Those of the log too: vLLM leaves routes that are switched off out of the document."""
    paths = client.get("/openapi.json").json()["paths"]
    posts = {path for path, methods in paths.items() if "post" in methods}
    posts |= set(re.findall(r"Route: (\S+), Methods:.*\bPOST\b", log.read_text()))
    assert len(posts) > 20
    assert re.findall(r"Route: (/|/page\S*), Methods", log.read_text()) == ["/", "/page/{name:path}"]
    assert posts - ROUTES.keys() - WITHOUT_TASK == set()
    assert {*paths, *posts} - ROUTE_LEVELS.keys() == set()


def test_log_and_spans_follow_a_request(client: httpx.Client, collector: Collector, log: Path) -> None:
    require_spans_and_lines(client, collector, log)


def test_last_the_server_stops_when_its_streams_have_ended(client: httpx.Client, log: Path) -> None:
    require_drain(client, log)
