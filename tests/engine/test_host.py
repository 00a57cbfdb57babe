"""Host memory without an engine: what a copy holds, what is page-locked, which copy is dropped first."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prompts.bundle import Bundle
from prompts.errors import NotStagedError
from prompts.manifest import PrefixSpec
from server.engine.host import HostCopy, HostTier, make_host_copy
from tests.engine.held import tensors_in
from tests.engine.two_workers import Engine, make_residency, run, save
from tests.prompts.sample import save_whole, whole_manifest, whole_tensors

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every tensor that was page-locked. There is no GPU here: torch would refuse."""
    found: list[Tensor] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        found.append(tensor.clone())
        return found[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    return found


def with_prefix() -> Bundle:
    spec = PrefixSpec(layers=2, length=3, kv_heads=1, head_dim=4)
    manifest = whole_manifest(text=None, vision=None, prefix=spec, projector=False, lm_head=False, frame=None)
    states = {f"prefix.{name}": torch.randn(2, 3, 4) for name in ("keys", "values")}
    return Bundle(manifest, states, "a" * 64, Path("task"))


def test_every_tensor_of_a_copy_is_page_locked_when_asked_for(tmp_path: Path, pinned: list[Tensor]) -> None:
    for bundle, count in ((save_whole(tmp_path / "whole"), 5), (with_prefix(), 2)):
        pinned.clear()
        held = list(tensors_in(vars(make_host_copy(bundle, dtype=torch.bfloat16, pin=True))))
        assert len(held) == count
        assert {id(one) for one in held} == {id(one) for one in pinned}, "the locked ones are those held"
        assert {(one.dtype, one.is_contiguous()) for one in held} == {(torch.bfloat16, True)}


def test_nothing_is_page_locked_unasked(tmp_path: Path, pinned: list[Tensor]) -> None:
    copy = make_host_copy(save_whole(tmp_path / "whole"), dtype=torch.float32, pin=False)
    assert pinned == []
    assert torch.equal(copy.text.prompts, whole_tensors()["text.prompts"].float())
    assert torch.equal(copy.lm_head, whole_tensors()["lm_head.weight"])


def stage(tier: HostTier, *digests: str) -> None:
    for digest in digests:
        while tier.stage(Path(digest), digest) == "reading":
            time.sleep(0.001)


def held(tier: HostTier, digests: str) -> str:
    """Which of them are there; those that are not are not read."""

    def is_there(digest: str) -> bool:
        try:
            return tier.take(digest).digest == digest
        except NotStagedError:
            return False

    return "".join(one for one in digests if is_there(one))


def test_the_copy_that_was_needed_longest_ago_is_dropped_first() -> None:
    tier = HostTier(lambda path, digest: HostCopy(digest=digest), max_tasks=2)
    for digest in "abc":
        stage(tier, digest)
        tier.take(digest)
    assert held(tier, "abc") == "bc"
    tier.touch("b")
    stage(tier, "d")
    tier.take("d")
    assert held(tier, "bcd") == "bd"
    tier.touch("c")
    assert held(tier, "bcd") == "bd", "what is gone is not touched"


def test_what_is_staged_stays_until_it_is_taken() -> None:
    tier = HostTier(lambda path, digest: HostCopy(digest=digest), max_tasks=1)
    stage(tier, "a", "b", "c")
    tier.take("c")
    assert len(tier) == 2, "and c is too much meanwhile"
    tier.take("a")
    assert held(tier, "abc") == "b"


def test_the_copy_of_a_task_that_leaves_the_device_is_kept_longest(tmp_path: Path) -> None:
    """Two places on the device and two copies: the second task stays, and its copy is the one to spare."""
    first, second, third = (save(tmp_path / f"task-{index}", index) for index in range(3))
    tiers: list[str] = []

    async def story() -> None:
        residency = make_residency(Engine(host_tasks=2))
        residency.observe_load = lambda name, tier, seconds: tiers.append(tier)
        for bundle in (first, second, third, first):
            async with residency.using(bundle):
                pass

    run(story)
    assert tiers == ["store", "store", "store", "host"]
