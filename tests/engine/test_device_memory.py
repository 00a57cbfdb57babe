"""What a server's store takes on the device: what the tensors of its tasks need, and at most 5 % more.

At LLaVA-1.5-7B's own sizes; nothing is allocated, torch's device `meta` counts bytes all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from prompts.manifest import Manifest, PrefixSpec, TextSpec, VisionSpec
from server.capacity import plan_capacity
from server.engine.bank import PromptBank
from server.engine.facts import EngineFacts
from server.engine.host import HostCopy, LayerPrompts
from server.engine.prefixes import KvLayout
from tests.engine.held import tensors_in
from tests.prompts.sample import BASE

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

DEVICE, DTYPE = torch.device("meta"), torch.bfloat16
LAYERS, WIDTH, HEADS, HEAD_DIM = 32, 4096, 32, 128
VISION_LAYERS, VISION_WIDTH = 24, 1024
PROJECTOR = {
    "linear_1.weight": (WIDTH, VISION_WIDTH),
    "linear_1.bias": (WIDTH,),
    "linear_2.weight": (WIDTH, WIDTH),
    "linear_2.bias": (WIDTH,),
}
LM_HEAD = (32_064, WIDTH)
PLACES = 32
STEP_TOKENS = 8192
"""vLLM's own for a server on a GPU."""


@dataclass(frozen=True)
class Kind:
    """Lengths of a task's prompts; `at`: the layers of its text."""

    text: int = 0
    at: tuple[int, ...] | None = None
    vision: int = 0
    prefix: int = 0
    projector: bool = False
    lm_head: bool = False

    def manifest(self) -> Manifest:
        text, vision = self.text, self.vision
        prefix = PrefixSpec(layers=LAYERS, length=self.prefix or 1, kv_heads=HEADS, head_dim=HEAD_DIM)
        return Manifest(
            name="task",
            version="1",
            base_model=BASE,
            text=TextSpec(layers=LAYERS, length=text, hidden=WIDTH, at=self.at) if text else None,
            vision=VisionSpec(layers=VISION_LAYERS, length=vision, hidden=VISION_WIDTH, mode="paper")
            if vision
            else None,
            prefix=prefix if self.prefix else None,
            projector=self.projector,
            lm_head=self.lm_head,
        )

    def copy(self, digest: str) -> HostCopy:
        layers = tuple(range(LAYERS)) if self.at is None else self.at
        vision_layers = tuple(range(VISION_LAYERS))
        states = (LAYERS, self.prefix, HEADS * HEAD_DIM)
        return HostCopy(
            digest=digest,
            text=LayerPrompts(empty(len(layers), self.text, WIDTH), layers) if self.text else None,
            vision=LayerPrompts(empty(VISION_LAYERS, self.vision, VISION_WIDTH), vision_layers)
            if self.vision
            else None,
            prefix=(empty(*states), empty(*states)) if self.prefix else None,
            projector={name: empty(*shape) for name, shape in PROJECTOR.items()} if self.projector else {},
            lm_head=empty(*LM_HEAD) if self.lm_head else None,
        )


M2PT = Kind(text=10, vision=20, projector=True)
DEEP, SOFT, SECOND = Kind(text=10), Kind(text=10, at=(0,)), Kind(text=6, at=(1,))
VISION, PREFIX, HEAD = Kind(vision=20), Kind(prefix=10), Kind(text=10, lm_head=True)
STORES = {
    "m2pt": [M2PT] * PLACES,
    "prompts at one layer": [SOFT] * (PLACES - 4) + [SECOND] * 4,
    "prompts of any depth": [DEEP] * 8 + [SOFT] * 12 + [SECOND] * 4 + [VISION] * 8,
    "prefixes": [PREFIX] * 8 + [SOFT] * (PLACES - 8),
    "one projector": [M2PT] + [DEEP] * 7 + [SOFT] * (PLACES - 8),
    "one lm_head": [HEAD] + [SOFT] * (PLACES - 1),
    "every kind": [M2PT, DEEP, VISION, PREFIX, HEAD] * 4 + [SOFT, SECOND] * 6,
}


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=DTYPE, device=DEVICE)


def make_bank(store: Sequence[Kind]) -> PromptBank:
    """As a server that starts on that store makes it."""
    capacity = plan_capacity([kind.manifest() for kind in store], tasks=PLACES, host_tasks=0)
    facts = EngineFacts(
        model="m",
        text_layers=LAYERS,
        text_hidden=WIDTH,
        vision_layers=VISION_LAYERS,
        vision_hidden=VISION_WIDTH,
        projector=PROJECTOR,
        lm_head=LM_HEAD,
        max_text_length=64,
        max_vision_length=64,
        room=capacity.room(text_layers=LAYERS, vision_layers=VISION_LAYERS, takes_prefixes=True),
        refusals={},
        prefix=(HEADS, HEAD_DIM),
    )
    kv = KvLayout([torch.nn.Identity()] * LAYERS, HEADS, 0, HEADS, HEAD_DIM)
    return PromptBank(facts, max_step_tokens=STEP_TOKENS, dtype=DTYPE, device=DEVICE, kv=kv)


def bytes_in(*things: object) -> int:
    """Of what they hold on the device."""
    found = (one for thing in things for one in tensors_in(vars(thing)) if one.device == DEVICE)
    return sum(one.untyped_storage().nbytes() for one in found)


def size_of(kind: Kind) -> int:
    return bytes_in(kind.copy("0" * 64))


def fill(bank: PromptBank, kinds: Sequence[Kind]) -> int:
    """Loads them all; returns what their tensors need, in bytes."""
    copies = [kind.copy(f"{index:064x}") for index, kind in enumerate(kinds)]
    for copy in copies:
        bank.load(copy, "token")
    return bytes_in(*copies)


def test_bytes_are_those_of_the_tensors() -> None:
    projector = VISION_WIDTH * WIDTH + WIDTH * WIDTH + 2 * WIDTH
    assert size_of(M2PT) == 2 * (10 * LAYERS * WIDTH + 20 * VISION_LAYERS * VISION_WIDTH + projector)
    assert size_of(SOFT) == 2 * 10 * WIDTH
    assert size_of(PREFIX) == 2 * 2 * 10 * LAYERS * WIDTH
    assert size_of(HEAD) == 2 * (10 * LAYERS * WIDTH + 32_064 * WIDTH)
    assert bytes_in(*make_bank([PREFIX]).modules()) > size_of(PREFIX) + 2 * 4 * STEP_TOKENS


@pytest.mark.parametrize("store", STORES.values(), ids=STORES.keys())
def test_a_device_for_all_of_a_store_holds_its_tensors_and_little_more(store: list[Kind]) -> None:
    bank = make_bank(store)
    assert len(store) == PLACES
    assert bytes_in(*bank.modules()) <= 1.05 * fill(bank, store)


@pytest.mark.parametrize("store", STORES.values(), ids=STORES.keys())
def test_a_device_for_part_of_a_store_holds_the_largest_tasks_and_little_more(store: list[Kind]) -> None:
    store = sorted(store + [SOFT] * 9, key=size_of, reverse=True)
    bank = make_bank(store)
    assert bytes_in(*bank.modules()) <= 1.05 * fill(bank, store[:PLACES])
    fill(make_bank(store), store[-PLACES:])  # and any others instead
