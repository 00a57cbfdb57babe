"""Whose logits are whose, without an engine: a runner of vLLM's with three requests."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from prompts.errors import EngineError
from server.engine.bank import PromptBank
from server.engine.facts import EngineFacts, Room
from server.engine.families.base import PromptedModel
from server.engine.heads import HeadSwitch
from server.engine.host import HostCopy, LayerPrompts
from server.engine.items import MODALITY, RESERVED_HASH_PREFIX

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

FACTS = EngineFacts(
    model="m",
    text_layers=1,
    text_hidden=4,
    vision_layers=0,
    vision_hidden=0,
    projector={},
    lm_head=(6, 4),
    max_text_length=8,
    max_vision_length=0,
    room=Room(tasks=3, text_rows=3, text_vectors=3, lm_heads=2),
    refusals={},
)
HIDDEN = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
OWN = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def bank() -> PromptBank:
    bank = PromptBank(FACTS, max_step_tokens=4, dtype=torch.float32, device=torch.device("cpu"))
    prompts = LayerPrompts(torch.randn(1, 1, 4), (0,))
    bank.load(HostCopy(digest="a" * 64, text=prompts), "a")
    bank.load(HostCopy(digest="b" * 64, text=prompts, lm_head=OWN), "a")
    return bank


def make_switch(bank: PromptBank, *keys: str | None) -> HeadSwitch:
    """A request for each key: of no task, or of one."""
    features: dict[str, list[Any]] = {
        str(row): []
        if key is None
        else [
            SimpleNamespace(modality="image", identifier="0af3"),
            SimpleNamespace(modality=MODALITY, identifier=f"{RESERVED_HASH_PREFIX}{key}"),
        ]
        for row, key in enumerate(keys)
    }
    switch = HeadSwitch(bank)
    switch.runner = SimpleNamespace(
        input_batch=SimpleNamespace(req_ids=[*features, None], num_reqs=len(features)),
        requests={name: SimpleNamespace(mm_features=found) for name, found in features.items()},
    )
    return switch


def test_only_the_rows_of_its_task_get_a_head(bank: PromptBank) -> None:
    switch = make_switch(bank, None, f"{'b' * 64}:2", f"{'a' * 64}:1")
    switch.begin_step()
    logits = switch.replace(HIDDEN, torch.zeros(3, 6))
    assert not logits[[0, 2]].any()
    assert torch.allclose(logits[1], OWN @ HIDDEN[1])


def test_logits_finer_than_the_model_are_made_as_fine() -> None:
    """vLLM's `head_dtype`: an output layer in float32 on a model in bfloat16."""
    coarse = PromptBank(FACTS, max_step_tokens=4, dtype=torch.bfloat16, device=torch.device("cpu"))
    own, hidden = OWN.bfloat16(), HIDDEN.bfloat16()
    coarse.load(HostCopy(digest="b" * 64, lm_head=own), "a")
    switch = make_switch(coarse, None, f"{'b' * 64}:1")
    switch.begin_step()
    logits = switch.replace(hidden, torch.zeros(3, 6))
    assert torch.equal(logits[1], own.float() @ hidden[1].float())


def test_a_second_call_of_a_step_is_for_prompt_logprobs(bank: PromptBank) -> None:
    switch = make_switch(bank, f"{'b' * 64}:2", f"{'b' * 64}:2", f"{'b' * 64}:2")
    assert not switch.replace(HIDDEN, torch.zeros(3, 6)).any(), "a dummy run, before any step"
    switch.begin_step()
    assert switch.replace(HIDDEN, torch.zeros(3, 6)).any()
    assert not switch.replace(HIDDEN, torch.zeros(3, 6)).any()
    switch.begin_step()
    assert switch.replace(HIDDEN, None) is None, "a rank without logits"


def test_a_task_that_is_gone_is_never_answered_by_the_models_head(bank: PromptBank) -> None:
    switch = make_switch(bank, f"{'a' * 64}:1")
    bank.unload("a" * 64, "a")
    switch.begin_step()
    with pytest.raises(EngineError, match="slot 1"):
        switch.replace(HIDDEN[:1], torch.zeros(1, 6))
    bank.unload("b" * 64, "a")
    assert not bank.has_heads


@pytest.mark.parametrize(
    ("engine", "logits", "said"),
    [
        ({}, {}, None),
        ({"use_v2_model_runner": True}, {}, "needs vLLM's model runner V1"),
        ({"speculative_config": "ngram"}, {}, "does not work with speculative decoding"),
        ({}, {"scale": 0.5}, "this model scales its logits"),
        ({}, {"soft_cap": 30.0}, "this model scales its logits"),
    ],
)
def test_an_engine_that_cannot_serve_one_says_why(
    engine: dict[str, Any], logits: dict[str, float], said: str | None
) -> None:
    config = SimpleNamespace(**{"use_v2_model_runner": False, "speculative_config": None, **engine})
    with set_current_vllm_config(VllmConfig()):
        model = nn.Sequential(LogitsProcessor(6, **logits))
    why = PromptedModel._refuse_heads(model, config)
    assert why is said is None or said in why
