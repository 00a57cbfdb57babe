"""Prefixes without an engine: a rank's heads, what a bank stores, what a step marks, what is put in."""

from typing import Any

import pytest
import torch
from torch import nn
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType

from prompts.errors import CapacityError, EngineError
from server.engine.bank import PromptBank
from server.engine.facts import EngineFacts, Room
from server.engine.handles import TaskHandle
from server.engine.host import HostCopy, LayerPrompts
from server.engine.items import make_rows
from server.engine.prefixes import KvLayout, find_kv_layout, inject_prefixes

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

LAYERS, HEADS, HEAD_DIM = 2, 2, 3
WIDTH = HEADS * HEAD_DIM
FACTS = EngineFacts(
    model="m",
    text_layers=LAYERS,
    text_hidden=4,
    vision_layers=0,
    vision_hidden=0,
    projector={},
    lm_head=(6, 4),
    max_text_length=8,
    max_vision_length=0,
    room=Room(tasks=3, text_rows=4, text_vectors=8, prefix_rows=5),
    refusals={},
    prefix=(HEADS, HEAD_DIM),
)


class Told(Attention):
    """vLLM's attention as far as `find_kv_layout` and the hook go: it returns what it is called with."""

    def __init__(self, heads: int = HEADS, **changes: Any) -> None:
        nn.Module.__init__(self)
        about = {"head_size": HEAD_DIM, "head_size_v": HEAD_DIM, "attn_type": AttentionType.DECODER}
        self.__dict__.update(
            {"num_kv_heads": heads, "kv_sharing_target_layer_name": None, **about, **changes}
        )

    def forward(self, query: Any, key: Any, value: Any, output_shape: Any = None) -> Any:
        return query, key, value, output_shape


def find(*attentions: nn.Module, total: int = HEADS, rank: int = 0, ranks: int = 1) -> KvLayout | str:
    layers = [nn.Sequential(nn.Identity(), one) for one in attentions]
    return find_kv_layout(layers, total_heads=total, rank=rank, ranks=ranks)


@pytest.mark.parametrize(
    ("total", "ranks", "first_heads"),
    [
        (8, 1, [0]),
        (8, 4, [0, 2, 4, 6]),
        (2, 2, [0, 1]),
        (2, 8, [0, 0, 0, 0, 1, 1, 1, 1]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_a_rank_takes_the_heads_that_vllm_gives_it(total: int, ranks: int, first_heads: list[int]) -> None:
    """As vLLM's QKVParallelLinear: consecutive heads, each on several ranks where there are fewer of them."""
    own = max(1, total // ranks)
    for rank, first in enumerate(first_heads):
        layout = find(Told(own), Told(own), total=total, rank=rank, ranks=ranks)
        assert isinstance(layout, KvLayout)
        assert layout.columns == slice(first * HEAD_DIM, (first + own) * HEAD_DIM)


@pytest.mark.parametrize(
    ("attentions", "said"),
    [
        ([Told(), nn.Identity()], "one attention over all keys in each layer"),
        ([Told(), nn.Sequential(Told(), Told())], "one attention over all keys in each layer"),
        ([Told(), Told(kv_sharing_target_layer_name="0")], "use the keys of others"),
        ([Told(), Told(attn_type=AttentionType.ENCODER_ONLY)], "use the keys of others"),
        ([Told(), Told(head_size=5)], "of one shape in all layers"),
        ([Told(head_size_v=5), Told(head_size_v=5)], "of one shape in all layers"),
    ],
)
def test_a_model_of_another_kind_says_why_not(attentions: list[nn.Module], said: str) -> None:
    layout = find(*attentions)
    assert isinstance(layout, str)
    assert said in layout


def make_bank(layout: KvLayout | str) -> PromptBank:
    assert isinstance(layout, KvLayout)
    return PromptBank(FACTS, max_step_tokens=6, dtype=torch.float32, device=torch.device("cpu"), kv=layout)


def make_prefix(digest: str, length: int) -> HostCopy:
    states = torch.randn(2, LAYERS, length, WIDTH)
    return HostCopy(digest=digest * 64, prefix=(states[0], states[1]))


def make_handle(bank: PromptBank, copy: HostCopy, length: int) -> TaskHandle:
    return TaskHandle(name="task", digest=copy.digest, slot=bank.load(copy, "a").slot, text_length=length)


def test_prefix_tokens_get_their_keys_and_values_and_no_others_do() -> None:
    attentions = [Told(), Told()]
    bank = make_bank(layout := find(*attentions))
    assert isinstance(layout, KvLayout)
    assert bank.prefix is not None
    inject_prefixes(layout, bank.prefix)
    prefix, text = make_prefix("a", 3), LayerPrompts(torch.randn(LAYERS, 1, 4), (0, 1))
    first = make_handle(bank, prefix, 3)
    second = make_handle(bank, HostCopy(digest="b" * 64, text=text), 1)
    bank.clear_step()
    bank.set_step(torch.tensor([0, 2, 3]), torch.cat([make_rows(second), make_rows(first)[1:]]))
    assert bank.rows.tolist() == [1, -1, 0, 0, -1, -1], "a prefix token's states are the dummy's zeros"
    states = torch.randn(3, 5, WIDTH)
    for layer, attention in enumerate(attentions):
        query, *others, shape = attention(states[0], states[1], states[2], torch.Size((5, 4)))
        assert torch.equal(query, states[0])
        assert shape == (5, 4)
        for put, given, own in zip(others, states[1:], prefix.prefix, strict=True):
            assert torch.equal(put[[0, 1, 4]], given[[0, 1, 4]])
            assert torch.equal(put[2:4], own[layer, 1:])
    by_head = states.view(3, 5, HEADS, HEAD_DIM)
    _, keys, _, _ = attentions[0](by_head[0], key=by_head[1], value=by_head[2])
    assert torch.equal(keys[2:4].flatten(1), prefix.prefix[0][0, 1:])
    bank.clear_step()
    _, keys, values, _ = attentions[0](*states)
    assert torch.equal(torch.stack([keys, values]), states[1:])


def test_a_rank_stores_its_own_heads() -> None:
    bank = make_bank(find(Told(1), Told(1), rank=1, ranks=2))
    copy = make_prefix("a", 2)
    handle = make_handle(bank, copy, 2)
    bank.set_step(torch.tensor([0, 1]), make_rows(handle))
    assert bank.prefix is not None
    keys, values, is_prefix = bank.prefix.take(1, 2)
    assert is_prefix.all()
    assert torch.equal(keys, copy.prefix[0][1, :, HEAD_DIM:])
    assert torch.equal(values, copy.prefix[1][1, :, HEAD_DIM:])


def test_room_is_taken_and_given_back() -> None:
    bank = make_bank(find(Told(), Told()))
    first = bank.load(make_prefix("a", 4), "a")
    with pytest.raises(CapacityError, match="prefix_rows: 2 are needed, 1 are free"):
        bank.load(make_prefix("b", 2), "a")
    bank.unload(first.digest, "a")
    assert bank.prefix is not None
    assert bank.prefix.vectors.free_rows == 5
    with pytest.raises(EngineError, match="slot 1: a request's task is not resident any more"):
        bank.set_step(torch.tensor([0]), torch.tensor([[1, 0]]))
    assert len(bank.load(make_prefix("c", 5), "a").prefix_rows) == 5


def test_without_room_there_is_no_bank_for_them() -> None:
    bank = PromptBank(FACTS, max_step_tokens=6, dtype=torch.float32, device=torch.device("cpu"))
    assert bank.prefix is None
    with pytest.raises(CapacityError, match="there is no room for prefixes; raise prefix_rows"):
        bank.load(make_prefix("a", 1), "a")
    assert bank.load(HostCopy(digest="b" * 64, text=LayerPrompts(torch.randn(1, 1, 4), (0,))), "a").slot == 2
