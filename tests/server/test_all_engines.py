"""Engines side by side are asked as one: no engine's answer goes unseen."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import CapacityError, EngineError
from server.engine.workers import Workers
from server.vllm_engine import AllEngines

DIGEST = "a" * 64


class Core:
    """vLLM's client of two engines; `answers`: method -> for each call each engine's workers' answers."""

    def __init__(self, **answers: list[list[list[dict[str, Any]]]]) -> None:
        self.answers = {name: list(calls) for name, calls in answers.items()}
        self.asked: list[str] = []
        self.engine_core = self

    async def call_utility_all_async(self, name: str, method: str, *rest: Any) -> list[Any]:
        assert name == "collective_rpc"
        self.asked.append(method)
        return self.answers[method].pop(0)


def ok(value: object) -> dict[str, Any]:
    return {"ok": value}


def test_a_bundle_is_there_when_the_last_engine_has_read_it() -> None:
    core = Core(
        passepartout_stage=[
            [[ok("host")], [ok("reading")]],
            [[ok("host")], [ok("reading")]],
            [[ok("host")], [ok("host")]],
        ]
    )
    assert asyncio.run(Workers(AllEngines(core)).stage(Path("task"), DIGEST)) is False
    assert len(core.asked) == 3


def test_what_one_engine_refuses_is_undone_in_the_others() -> None:
    full = {"code": CapacityError.code, "message": "no room"}
    core = Core(
        passepartout_load=[[[ok(1), ok(1)], [full, ok(1)]]],
        passepartout_unload=[[[ok(0), ok(0)], [ok(0), ok(0)]]],
    )
    with pytest.raises(CapacityError, match="no room"):
        asyncio.run(Workers(AllEngines(core)).load(DIGEST, "token"))
    assert core.asked == ["passepartout_load", "passepartout_unload"]


def test_engines_that_count_differently_serve_nothing() -> None:
    core = Core(passepartout_load=[[[ok(1)], [ok(2)]]], passepartout_unload=[[[ok(0)], [ok(0)]]] * 2)
    with pytest.raises(EngineError, match="the workers disagree"):
        asyncio.run(Workers(AllEngines(core)).load(DIGEST, "token"))
