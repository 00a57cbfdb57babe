"""Canaries at load time: what fails is not served and `/ready` says why; the other tasks go on."""

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from prompts.bundle import Bundle, load_bundle
from prompts.canary_check import FirstToken
from prompts.errors import BaseModelError, BundleError, ConfigError, EngineError
from prompts.manifest import BaseModelRef, Usage
from prompts.store import StoreReader
from server.app import start
from server.canary import CanaryLoader, Messages, ask_canary, conversations_of
from server.config import ServeConfig
from server.engine.handles import TaskHandle
from server.tasks import TaskRegistry
from server.verify import as_json, as_text
from server.verify import main as verify
from server.vllm_canary import ServerAsker
from tests.engine.tiny_llava import make_tiny_llava
from tests.prompts.canaries import IMAGE_TOKEN, LOGPROBS, TOKENS, canary_for, put_canary
from tests.prompts.sample import BASE, save_frame
from tests.server.conftest import save_text
from tests.server.fake import FakeLoader, FakeServer, make_server

LEARNED = [0, 0, 0]
PICTURED = [1, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, 2, 3]
SPOKEN = [1, 4, 5]


@dataclass
class FakeAsker:
    """Says what the canary of `canary_for` expects, `off` away from it for the tasks named there."""

    off: dict[str, float] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    """Tasks that are not answered."""
    dtype: str = "float32"
    unable: str | None = None

    async def first_tokens(self, conversations: Sequence[Messages], handle: TaskHandle) -> list[FirstToken]:
        self.asked.append(handle.name)
        if self.failures:
            raise self.failures.pop()
        while handle.name in self.silent:
            await asyncio.sleep(0.01)
        said = {
            token: value + self.off.get(handle.name, 0.0)
            for token, value in zip(TOKENS, LOGPROBS, strict=True)
        }
        learned = LEARNED[: handle.text_length]
        prompts = [PICTURED if isinstance(one[-1]["content"], list) else SPOKEN for one in conversations]
        return [FirstToken([*learned, *ids], said) for ids in prompts]


@dataclass
class Site:
    """A store of two text tasks with canaries, what loads them and what asks."""

    folder: Path
    asker: FakeAsker = field(default_factory=FakeAsker)
    inner: FakeLoader = field(default_factory=FakeLoader)
    tasks: TaskRegistry = field(default_factory=lambda: TaskRegistry(drain_grace_seconds=0.0))
    only_warn: bool = False
    told: list[tuple[str, str, float | None]] = field(default_factory=list)
    """What became of canaries, as the metrics are told."""

    def __post_init__(self) -> None:
        self.reader = StoreReader(self.folder)
        self.loader = CanaryLoader(
            self.inner,
            self.asker,
            base=BASE,
            only_warn=self.only_warn,
            observe=lambda *told: self.told.append(told),
        )

    async def look(self) -> None:
        await self.tasks.reconcile(self.reader.scan(), self.loader)


def save_with_canary(
    folder: Path, name: str, usage: Usage | None = None, base: BaseModelRef = BASE
) -> Bundle:
    save_text(folder / name, name, usage)
    put_canary(folder / name, canary_for(load_bundle(folder / name), base))
    return load_bundle(folder / name)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for name in ("good", "bad"):
        save_with_canary(tmp_path, name)
    return Site(tmp_path)


def test_what_fails_is_not_served_and_the_others_are(site: Site) -> None:
    site.asker.off["bad"] = -0.5
    asyncio.run(site.look())
    assert list(site.tasks.tasks) == ["good"]
    assert site.tasks.faults["bad"][0].startswith(
        "canary.json: all inputs: expected first-token logprobs within"
    )


def test_what_became_of_each_canary_is_told(site: Site) -> None:
    site.asker.off["bad"] = -0.5
    asyncio.run(site.look())
    found = {task: (result, off) for task, result, off in site.told}
    assert found["good"] == ("passed", 0.0)
    assert found["bad"][0] == "failed"
    assert found["bad"][1] == pytest.approx(0.5 / 0.00141, rel=0.01)


@pytest.mark.parametrize(
    ("failures", "unable", "result"),
    [([EngineError("down")] * 2, None, "error"), ([], "it has no logprobs", "passed_over")],
)
def test_a_canary_that_says_nothing_is_told_too(
    site: Site, failures: list[Exception], unable: str | None, result: str
) -> None:
    site.asker.failures, site.asker.unable = list(failures), unable
    asyncio.run(site.look())
    assert {(told[1], told[2]) for told in site.told} == {(result, None)}


def test_ready_says_why(site: Site) -> None:
    server: FakeServer = make_server()
    server.service.engine_is_healthy = healthy
    site.asker.off["bad"] = math.nan
    config = ServeConfig(tasks=site.folder)
    asyncio.run(start(server.service, config, base_names=("base",), loader=site.loader))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/ready")

    body = asyncio.run(ask()).json()
    assert (body["status"], list(body["tasks"])) == ("degraded", ["good"])
    (refused,) = body["refused"]
    assert refused["bundle"] == "bad"
    assert "within 0.00283 of the trainer's (root mean square), came inf" in refused["faults"][0]


async def healthy() -> bool:
    return True


def test_a_name_goes_on_with_what_it_has_and_a_cured_bundle_is_asked_again(site: Site) -> None:
    async def story() -> None:
        await site.look()
        before = site.tasks.find("bad")
        changed = save_with_canary(site.folder, "bad", Usage(choices=("cat", "dog")))
        site.asker.off["bad"] = 0.5
        await site.look()
        await site.look()
        assert site.tasks.find("bad") is before
        assert site.asker.asked == ["bad", "good", "bad"]  # refused for good until the bundle changes
        (site.folder / "bad" / "canary.json").unlink()
        await site.look()
        assert site.tasks.find("bad").digest == changed.digest

    asyncio.run(story())


def test_a_digest_that_passed_is_not_asked_again(site: Site) -> None:
    async def story() -> None:
        bundle = load_bundle(site.folder / "good")
        for _ in range(2):
            async with site.loader.using(bundle):
                pass
        assert site.asker.asked == ["good"]
        other = replace(bundle, canary=canary_for(bundle, BASE.model_copy(update={"id": "x"})))
        async with site.loader.using(other):
            assert site.asker.asked == ["good", "good"]
        await site.loader.discard(bundle.digest)
        async with site.loader.using(other):
            assert site.asker.asked == ["good", "good", "good"], "what is gone is not kept in mind"

    asyncio.run(story())


def test_a_cold_task_that_fails_at_its_first_request_is_refused_from_then_on(site: Site) -> None:
    """Where the device had no room for it before, its first request brings it there and asks."""

    async def story() -> None:
        site.inner.rooms = 0
        await site.look()
        assert (sorted(site.tasks.tasks), site.asker.asked) == (["bad", "good"], [])
        site.asker.off["bad"] = 0.5
        task = site.tasks.find("bad")
        for _ in range(2):
            with pytest.raises(EngineError, match="task bad cannot be served now; the server's log"):
                async with task.hold():
                    raise AssertionError("held")
        async with site.tasks.find("good").hold(), site.tasks.find("good").hold():
            assert site.asker.asked == ["bad", "good"]
        for _ in range(2):
            await site.look()
            assert list(site.tasks.tasks) == ["good"]
            assert "all inputs" in site.tasks.faults["bad"][0]
        assert site.asker.asked == ["bad", "good"]

    asyncio.run(story())


def test_a_request_under_way_waits_for_no_canary(site: Site) -> None:
    """It holds the task: a canary made anew meanwhile is for those who come after it."""

    async def story() -> None:
        bundle = load_bundle(site.folder / "good")
        async with site.loader.using(bundle):
            anew = replace(bundle, canary=canary_for(bundle, BASE.model_copy(update={"id": "x"})))
            site.asker.failures = [EngineError("asked")]
            async with site.loader.using(anew, is_held=True):
                assert site.asker.asked == ["good"]

    asyncio.run(story())


@pytest.mark.parametrize("failure", [EngineError("canary: no answer"), OverflowError("unforeseen")], ids=repr)
def test_an_engine_that_fails_is_asked_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr("server.tasks._FIRST_RETRY_SECONDS", 0.0)

    async def story() -> None:
        site.asker.failures = [failure]
        await site.look()
        assert list(site.tasks.tasks) == ["good"]
        await site.look()
        assert sorted(site.tasks.tasks) == ["bad", "good"]

    asyncio.run(story())


def test_a_warning_serves_all_the_same(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    warned = Site(site.folder, only_warn=True)
    warned.asker.off["bad"] = 0.5
    asyncio.run(warned.look())
    assert sorted(warned.tasks.tasks) == ["bad", "good"]
    assert "task bad is served though it fails its canary: canary.json: all inputs" in caplog.text


def test_a_canary_of_another_model_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A frame serves models it was not made in."""
    caplog.set_level(logging.INFO)
    frame = save_frame(tmp_path / "frame", "frame")
    other = BaseModelRef(architecture="Other", fingerprint=f"sha256:{'1' * 64}", id="other")
    put_canary(tmp_path / "frame", canary_for(frame, other))
    site = Site(tmp_path)
    asyncio.run(site.look())
    assert (list(site.tasks.tasks), site.asker.asked) == (["frame"], [])
    assert "its canary is passed over: it was made in another model (other)" in caplog.text


def test_an_engine_that_cannot_be_compared_is_not_asked(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.asker.unable = "the server gives no logprobs"
    asyncio.run(site.look())
    assert (sorted(site.tasks.tasks), site.asker.asked) == (["bad", "good"], [])
    assert "passed over: the server gives no logprobs" in caplog.text


def test_verify_prints_each_input_and_the_verdict(tmp_path: Path) -> None:
    bundle = save_with_canary(tmp_path, "task")
    canary, asker = bundle.canary, FakeAsker()
    assert canary is not None
    handle = TaskHandle(name="task", digest=bundle.digest, slot=1, text_length=3)
    report = asyncio.run(ask_canary(asker, bundle, canary, handle))
    assert as_text(bundle, canary, report, "float32").splitlines() == [
        f"task {bundle.digest}",
        "  input 1: 0 off, ok",
        "  input 2: 0 off, ok",
        "  all inputs: 0 off, 0.0014 allowed (float32 against the trainer's float32): ok",
    ]
    asker.off["task"] = -0.002  # within what one input may be, beyond what all may be
    report = asyncio.run(ask_canary(asker, bundle, canary, handle))
    *_, verdict, found = as_text(bundle, canary, report, "float32").splitlines()
    assert verdict.endswith(": fails")
    assert found.startswith("  canary.json: all inputs: expected first-token logprobs within 0.00141")
    told = as_json(bundle, report)
    assert (told["ok"], told["faults"]) == (False, list(report.faults))
    asker.off["task"] = math.nan
    report = asyncio.run(ask_canary(asker, bundle, canary, handle))
    assert as_json(bundle, report)["inputs"] == [None, None]
    assert "input 2: canary.json: input 2: expected" in as_text(bundle, canary, report, "float32")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"max_logprobs": 0}, "--max-logprobs 0"),
        ({"logprobs_mode": "raw_logits"}, "raw_logits"),
        ({"quantization": "fp8"}, "quantises the model (fp8)"),
        ({"cache_dtype": "fp8_e4m3"}, "keeps keys and values in another dtype (fp8_e4m3)"),
        ({"cache_dtype": "nvfp4"}, "keeps keys and values in another dtype (nvfp4)"),
    ],
)
def test_what_makes_an_engine_incomparable(changes: dict[str, Any], said: str | None) -> None:
    told = {
        "max_logprobs": 20,
        "logprobs_mode": "raw_logprobs",
        "quantization": None,
        "dtype": "torch.bfloat16",
    }
    config = SimpleNamespace(
        model_config=SimpleNamespace(**told | changes),
        cache_config=SimpleNamespace(cache_dtype=changes.get("cache_dtype", "auto")),
    )
    asker = ServerAsker(SimpleNamespace(vllm_config=config), None)
    assert asker.dtype == "bfloat16"
    assert asker.unable is None if said is None else said in (asker.unable or "")


def test_inputs_are_asked_as_a_client_would_with_the_usage_put_in(tmp_path: Path) -> None:
    usage = Usage(system="Be brief.", template="Name it: {text}!", choices=("cat", "dog"))
    bundle = save_with_canary(tmp_path, "spoken", usage)
    assert bundle.canary is not None
    pictured, spoken = conversations_of(bundle.canary, usage)
    assert [one["role"] for one in pictured] == ["system", "user"]
    picture, text = pictured[1]["content"]
    assert picture["image_url"]["url"] == f"data:image/png;base64,{bundle.canary.inputs[0].picture}"
    assert text == {"type": "text", "text": "Name it: what is it?!"}
    assert spoken[1] == {"role": "user", "content": "Name it: hello!"}


def test_the_option_is_one_of_three(tmp_path: Path) -> None:
    assert ServeConfig(tasks=tmp_path, canary="warn").canary == "warn"
    with pytest.raises(ConfigError, match="--canary: expected refuse or warn or off, came on"):
        ServeConfig(tasks=tmp_path, canary="on")


def test_verify_names_what_is_lacking_before_it_starts_an_engine(tmp_path: Path) -> None:
    bundle = save_with_canary(tmp_path, "task")
    folder = str(tmp_path / "task")
    with pytest.raises(BaseModelError):
        verify([folder, "--model", str(tmp_path / "nosuch")])
    model = make_tiny_llava(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"--model: expected tiny \(sha256:000"):
        verify([folder, "--model", str(model)])
    (tmp_path / "task" / "canary.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(BundleError, match="bundle 'task' is refused"):
        verify([folder, "--model", str(tmp_path)])
    (tmp_path / "task" / "canary.json").unlink()
    with pytest.raises(ConfigError, match=f"{bundle.name}: expected a canary, came a bundle without"):
        verify([folder, "--model", str(tmp_path)])
