"""The bank without an engine: who is admitted, what a step marks, what loading and unloading change."""

import pytest
import torch

from prompts.errors import CapacityError, EngineError
from server.engine.bank import PromptBank, Resident
from server.engine.facts import EngineFacts, Room
from server.engine.handles import TaskHandle
from server.engine.host import HostCopy, LayerPrompts
from server.engine.items import make_rows, make_ticket

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

FACTS = EngineFacts(
    model="m",
    text_layers=2,
    text_hidden=4,
    vision_layers=3,
    vision_hidden=6,
    projector={"linear_1.weight": (4, 6)},
    lm_head=(9, 4),
    max_text_length=8,
    max_vision_length=5,
    room=Room(tasks=3, text_rows=8, text_vectors=16, vision_rows=6, vision_vectors=18, projectors=1),
    refusals={},
)


def make_copy(
    digest: str, *, text: int = 0, vision: int = 0, layers: tuple[int, ...] = (0, 1), projector: bool = False
) -> HostCopy:
    """Random; its digest is one character, many times."""
    return HostCopy(
        digest=digest * 64,
        text=LayerPrompts(torch.randn(len(layers), text, 4), layers) if text else None,
        vision=LayerPrompts(torch.randn(3, vision, 6), (0, 1, 2)) if vision else None,
        projector={"linear_1.weight": torch.randn(4, 6)} if projector else {},
    )


def make_handle(bank: PromptBank, copy: HostCopy) -> TaskHandle:
    """Loads it and makes the handle the front end would."""
    resident = bank.load(copy, "a")
    return TaskHandle(
        name="task", digest=copy.digest, slot=resident.slot, text_length=len(resident.text_rows)
    )


def taken(bank: PromptBank, resident: Resident, layer: int) -> torch.Tensor:
    vectors, has_one = bank.text.take(layer, resident.text_rows)
    assert has_one.all()
    return vectors


@pytest.fixture
def bank() -> PromptBank:
    return PromptBank(FACTS, max_step_tokens=12, dtype=torch.float32, device=torch.device("cpu"))


def test_tasks_of_any_length_share_the_rows(bank: PromptBank) -> None:
    copies = [make_copy("a", text=3, vision=2), make_copy("b", text=5), make_copy("c", vision=4)]
    residents = [bank.load(copy, "a") for copy in copies]
    assert [one.slot for one in residents] == [1, 2, 3]
    rows = torch.cat([one.text_rows for one in residents])
    assert sorted(rows.tolist()) == list(range(1, 9))
    for layer in (0, 1):
        assert torch.equal(taken(bank, residents[1], layer), copies[1].text.prompts[layer])
    vectors, _ = bank.vision.take(2, residents[2].vision_rows)
    assert torch.equal(vectors, copies[2].vision.prompts[2])
    dummy, has_one = bank.text.take(0, torch.tensor([0]))
    assert has_one.all()
    assert not dummy.any()


def test_freed_room_in_pieces_serves_a_longer_prompt(bank: PromptBank) -> None:
    short = [bank.load(make_copy(digest, text=2), "a") for digest in "abc"]
    bank.unload(short[0].digest, "a")
    bank.unload(short[2].digest, "a")
    long = make_copy("d", text=6)
    resident = bank.load(long, "a")
    assert torch.equal(taken(bank, resident, 1), long.text.prompts[1])
    assert not set(resident.text_rows.tolist()) & set(short[1].text_rows.tolist())


def test_a_layer_left_out_has_no_vector_and_takes_no_room(bank: PromptBank) -> None:
    resident = bank.load(make_copy("a", text=4, layers=(0,)), "a")
    assert bank.text.free_vectors == 16 - 4
    assert bank.text.take(0, resident.text_rows)[1].all()
    assert not bank.text.take(1, resident.text_rows)[1].any()
    assert not bank.text.take(0, torch.tensor([-1]))[1].any()


def test_prompt_tokens_without_a_vector_at_the_input_enter_as_zeros(bank: PromptBank) -> None:
    """Also in rows that were another's: OPT adds positions there before layer 0 is reached."""
    bank.load(make_copy("a", text=8), "a")
    bank.unload("a" * 64, "a")
    copy = make_copy("b", text=3, layers=(1,))
    resident = bank.load(copy, "b")
    assert torch.equal(taken(bank, resident, 0), torch.zeros(3, 4))
    assert copy.text is not None
    assert torch.equal(taken(bank, resident, 1), copy.text.prompts[0])


def test_a_step_marks_its_prompt_tokens_and_no_others(bank: PromptBank) -> None:
    first = make_handle(bank, make_copy("a", text=2))
    second = make_handle(bank, make_copy("b", text=3))
    bank.clear_step()
    handles = torch.cat([make_rows(second)[1:], make_rows(first)])  # a chunk of one, the whole of the other
    bank.set_step(torch.tensor([0, 1, 5, 6]), handles)
    rows = [*bank.find(second.digest).text_rows.tolist()[1:], *bank.find(first.digest).text_rows.tolist()]
    assert bank.rows.tolist() == [*rows[:2], -1, -1, -1, *rows[2:], -1, -1, -1, -1, -1]
    bank.clear_step()
    assert (bank.rows == -1).all()


def test_a_task_that_is_gone_is_never_admitted(bank: PromptBank) -> None:
    handle = make_handle(bank, make_copy("a", text=2))
    assert bank.admit(*make_ticket(handle).tolist()).digest == handle.digest
    assert bank.unload(handle.digest, "a") == 0
    with pytest.raises(EngineError, match="slot 1: the task of this request is not resident"):
        bank.admit(*make_ticket(handle).tolist())
    with pytest.raises(EngineError, match="slot 1: a request's task is not resident any more"):
        bank.set_step(torch.tensor([0, 1]), make_rows(handle))
    assert bank.unload(handle.digest, "a") == 0, "undoing it again changes nothing"


def test_a_slot_is_one_digests_for_ever(bank: PromptBank) -> None:
    """vLLM's caches go by digest and slot: both must mean the same when a task comes back."""
    copy = make_copy("a", text=2)
    old = make_handle(bank, copy)
    bank.unload(old.digest, "a")
    other = make_handle(bank, make_copy("b", text=2))
    assert other.slot == 2
    with pytest.raises(EngineError, match="slot 1"):
        bank.set_step(torch.tensor([0, 1]), make_rows(old))
    with pytest.raises(EngineError, match="slot 2"):
        bank.admit(2, make_ticket(old).tolist()[1])
    back = bank.load(copy, "a")
    assert back.slot == old.slot
    bank.set_step(torch.tensor([0, 1]), make_rows(old))
    assert bank.rows[:2].tolist() == back.text_rows.tolist()


def test_a_digest_is_held_once_and_goes_with_its_last_load(bank: PromptBank) -> None:
    copy = make_copy("a", text=8)
    assert bank.hold(copy.digest, "b") is None
    assert bank.load(copy, "a") is bank.hold(copy.digest, "b")
    assert bank.unload(copy.digest, "a") == 1
    assert bank.unload(copy.digest, "a") == 1, "another's load stays"
    assert bank.unload(copy.digest, "b") == 0
    assert bank.text.free_rows == 8


def test_no_room_is_said_and_changes_nothing(bank: PromptBank) -> None:
    bank.load(make_copy("a", text=3, projector=True), "a")
    for digest, parts, said in (
        ("b", {"text": 6}, "text_rows: 6 are needed, 5 are free"),
        ("c", {"text": 2, "vision": 7}, "vision_rows: 7 are needed, 6 are free"),
        ("d", {"text": 2, "vision": 2, "projector": True}, "projectors: all places are taken"),
    ):
        with pytest.raises(CapacityError, match=said):
            bank.load(make_copy(digest, **parts), "a")
        assert (bank.text.free_rows, bank.text.free_vectors) == (5, 10)
        assert (bank.vision.free_rows, bank.vision.free_vectors) == (6, 18)
    bank.load(make_copy("e", text=1), "a")
    bank.load(make_copy("f", text=1), "a")
    with pytest.raises(CapacityError, match="tasks: all 3 places"):
        bank.load(make_copy("g", text=1), "a")


def test_a_projector_lies_in_its_place(bank: PromptBank) -> None:
    copy = make_copy("a", projector=True)
    resident = bank.load(copy, "a")
    assert torch.equal(bank.projector_of(resident)["linear_1.weight"], copy.projector["linear_1.weight"])
    assert bank.projector_of(bank.load(make_copy("b", text=1), "a")) == {}


def test_what_was_half_copied_is_taken_back(bank: PromptBank) -> None:
    broken = make_copy("a", text=2, vision=2)
    wrong = LayerPrompts(torch.randn(3, 2, 5), (0, 1, 2))
    with pytest.raises(EngineError, match="its tensors were not copied"):
        bank.load(HostCopy(digest=broken.digest, text=broken.text, vision=wrong), "a")
    assert (bank.text.free_rows, bank.vision.free_rows, bank.vision.free_vectors) == (8, 6, 18)
    assert bank.find(broken.digest) is None
    assert bank.load(broken, "a").slot == 1
