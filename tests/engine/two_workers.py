"""Two workers with real banks and host tiers; of vLLM's engine `collective_rpc` alone.

Each call goes to every worker, in one order. Imported by tests of the tiers.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import torch

from prompts.bundle import Bundle, save_bundle
from prompts.errors import EngineError, PassepartoutError
from prompts.manifest import Manifest, TextSpec
from server.engine.bank import PromptBank
from server.engine.facts import EngineFacts, Room
from server.engine.residency import Residency
from server.engine.tiers import WorkerTiers
from server.engine.workers import Workers
from tests.prompts.sample import BASE

__all__ = ["Engine", "make_residency", "run", "save", "settle"]

ROOM = Room(tasks=2, text_rows=6, text_vectors=12)
FACTS = EngineFacts(
    model="m",
    text_layers=2,
    text_hidden=4,
    vision_layers=0,
    vision_hidden=0,
    projector={},
    lm_head=(9, 4),
    max_text_length=8,
    max_vision_length=0,
    room=ROOM,
    refusals={},
)


class Worker:
    """`PromptWorkerExtension` without a model."""

    def __init__(self, *, host_tasks: int) -> None:
        self.bank = PromptBank(FACTS, max_step_tokens=4, dtype=torch.float32, device=torch.device("cpu"))
        self.tiers = WorkerTiers(self.bank, FACTS, host_tasks=host_tasks)
        self.refuses_loads = False

    def passepartout_stage(self, path: str, digest: str) -> str:
        return self.tiers.stage(path, digest)

    def passepartout_load(self, digest: str, token: str) -> int:
        if self.refuses_loads:
            self.bank.slot_of(digest)
            raise RuntimeError("out of memory")
        return self.tiers.load(digest, token).slot

    def passepartout_unload(self, digest: str, token: str) -> int:
        return self.tiers.unload(digest, token)

    def passepartout_forget(self, digest: str) -> None:
        self.tiers.forget(digest)


class Engine:
    """Two ranks of one engine."""

    def __init__(self, *, host_tasks: int = 8) -> None:
        self.workers = [Worker(host_tasks=host_tasks) for _ in range(2)]

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None
    ) -> list[Any]:
        await asyncio.sleep(0)
        return [answer(lambda one=one: getattr(one, method)(*args)) for one in self.workers]

    def on_device(self) -> set[str]:
        """Digests, the same in both."""
        first, second = ({one.digest for one in worker.bank._residents.values()} for worker in self.workers)
        assert first == second
        return first


def answer(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": call()}
    except RuntimeError as error:
        return {"code": EngineError.code, "message": str(error)}
    except PassepartoutError as error:
        return {"code": error.code, "message": str(error)}


def save(folder: Path, seed: int, *, length: int = 2) -> Bundle:
    spec = TextSpec(layers=2, length=length, hidden=4)
    values = torch.randn(2, length, 4, generator=torch.Generator().manual_seed(seed))
    manifest = Manifest(name=folder.name, version="1", base_model=BASE, text=spec)
    return save_bundle(folder, manifest, {"text.prompts": values})


def make_residency(engine: Engine, **options: Any) -> Residency:
    return Residency(Workers(engine), facts=FACTS, base=BASE, **options)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0.002)
