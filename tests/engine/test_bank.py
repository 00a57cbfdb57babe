"""The bank without an engine: who is admitted, what a step marks, what loading and unloading change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prompts.bundle import Bundle
from prompts.errors import CapacityError, EngineError
from prompts.manifest import BaseModelRef, FrameSpec, Manifest, TextSpec, VisionSpec
from server.engine.bank import PromptBank
from server.engine.facts import EngineFacts, find_misfits
from server.engine.handles import TaskHandle
from server.engine.items import make_rows, make_ticket

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

FACTS = EngineFacts(
    model="m",
    text_layers=2,
    text_hidden=4,
    vision_layers=3,
    vision_hidden=6,
    vision_refusal=None,
    projector={"linear_1.weight": (4, 6)},
    max_text_length=8,
    max_vision_length=5,
    text_rows=8,
    vision_rows=6,
    slots=3,
)
BASE = BaseModelRef(architecture="LlavaForConditionalGeneration", fingerprint="sha256:" + "0" * 64)


def make_bundle(
    digest: str, *, text: int = 0, vision: int = 0, mode: str = "paper", **parts: object
) -> Bundle:
    """In memory; its digest is one character, many times."""
    tensors = {}
    if text:
        tensors["text.prompts"] = torch.randn(2, text, 4)
    if vision:
        tensors["vision.prompts"] = torch.randn(3, vision, 6)
    manifest = Manifest(
        name="task",
        version="1",
        base_model=BASE,
        text=TextSpec(layers=2, length=text, hidden=4) if text else None,
        vision=VisionSpec(layers=3, length=vision, hidden=6, mode=mode) if vision else None,
        **parts,
    )
    return Bundle(manifest, tensors, digest * 64, Path("task"))


def make_handle(bank: PromptBank, bundle: Bundle) -> TaskHandle:
    """Loads it and makes the handle the front end would."""
    resident = bank.load(bundle)
    return TaskHandle(
        name=bundle.name,
        digest=bundle.digest,
        slot=resident.slot,
        text_row0=resident.text_row0,
        text_length=resident.text_length,
    )


@pytest.fixture
def bank() -> PromptBank:
    return PromptBank(FACTS, max_step_tokens=12, dtype=torch.float32, device=torch.device("cpu"))


def test_tasks_of_any_length_share_the_rows(bank: PromptBank) -> None:
    bundles = [make_bundle("a", text=3, vision=2), make_bundle("b", text=5), make_bundle("c", vision=4)]
    residents = [bank.load(bundle) for bundle in bundles]
    assert [one.slot for one in residents] == [1, 2, 3]
    assert [(one.text_row0, one.vision_row0) for one in residents] == [(1, 1), (4, 0), (0, 3)]
    assert torch.equal(bank.text[:, 4:9], bundles[1].tensors["text.prompts"])
    assert torch.equal(bank.vision[:, 3:7], bundles[2].tensors["vision.prompts"])
    assert not bank.text[:, 0].any()


def test_a_step_marks_its_prompt_tokens_and_no_others(bank: PromptBank) -> None:
    first = make_handle(bank, make_bundle("a", text=2))
    second = make_handle(bank, make_bundle("b", text=3))
    bank.clear_step()
    handles = torch.cat([make_rows(second)[1:], make_rows(first)])  # a chunk of one, the whole of the other
    bank.set_step(torch.tensor([0, 1, 5, 6]), handles)
    assert bank.rows.tolist() == [4, 5, -1, -1, -1, 1, 2, -1, -1, -1, -1, -1]
    bank.clear_step()
    assert (bank.rows == -1).all()


def test_a_task_that_is_gone_is_never_admitted(bank: PromptBank) -> None:
    handle = make_handle(bank, make_bundle("a", text=2))
    assert bank.admit(*make_ticket(handle).tolist()).digest == handle.digest
    assert bank.unload(handle.slot, handle.digest) == 0
    with pytest.raises(EngineError, match="slot 1: the task of this request is not resident"):
        bank.admit(*make_ticket(handle).tolist())
    with pytest.raises(EngineError, match=r"slots \[1\]: a request's task is not resident any more"):
        bank.set_step(torch.tensor([0, 1]), make_rows(handle))
    with pytest.raises(EngineError, match="slot 1: no task of digest"):
        bank.unload(handle.slot, handle.digest)


def test_rows_that_went_to_another_task_are_not_the_old_ones(bank: PromptBank) -> None:
    old = make_handle(bank, make_bundle("a", text=2))
    bank.unload(old.slot, old.digest)
    new = make_handle(bank, make_bundle("b", text=2))
    assert (new.text_row0, new.slot) == (old.text_row0, 2)
    with pytest.raises(EngineError, match=r"slots \[1\]"):
        bank.set_step(torch.tensor([0, 1]), make_rows(old))
    with pytest.raises(EngineError, match="slot 2"):
        bank.admit(2, make_ticket(old).tolist()[1])


def test_a_digest_is_held_once_and_goes_with_its_last_load(bank: PromptBank) -> None:
    bundle = make_bundle("a", text=8)
    assert bank.load(bundle) is bank.load(bundle)
    assert bank.unload(1, bundle.digest) == 1
    assert bank.unload(1, bundle.digest) == 0
    assert bank.load(make_bundle("b", text=8)).slot == 2


def test_a_task_without_room_leaves_no_trace(bank: PromptBank) -> None:
    bank.load(make_bundle("a", vision=4))
    with pytest.raises(CapacityError, match="vision_rows: 3 rows"):
        bank.load(make_bundle("b", text=8, vision=3))
    assert bank.load(make_bundle("c", text=8)).slot == 2
    bank.load(make_bundle("d", vision=1))
    with pytest.raises(CapacityError, match="slots: all 3 are taken"):
        bank.load(make_bundle("e", vision=1))


def test_tensors_that_cannot_be_copied_leave_no_trace(
    bank: PromptBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as full:
        full.setattr(bank, "_copy", fail)
        for _ in range(3):
            with pytest.raises(EngineError, match="were not copied: out of memory"):
                bank.load(make_bundle("a", text=8, vision=6))
    assert bank.load(make_bundle("a", text=8, vision=6)).text_length == 8


def test_every_misfit_is_named() -> None:
    facts = replace(FACTS, text_layers=5, max_vision_length=1)
    bundle = make_bundle("a", text=9, vision=2, projector=True, lm_head=True)
    bundle = replace(bundle, tensors={**bundle.tensors, "projector.linear_1.weight": torch.zeros(4, 5)})
    text, text_length, vision_length, projector, lm_head = find_misfits(bundle, facts)
    assert text.startswith("text: expected 5 layers of width 4, came 2 layers of width 4")
    assert text_length.startswith("text.length: expected at most 8, came 9")
    assert vision_length.startswith("vision.length: expected at most 1, came 2")
    assert projector.startswith("projector.linear_1.weight: expected shape (4, 6), came shape (4, 5)")
    assert lm_head.startswith("lm_head: expected false, came true; an lm_head per task is not served yet")


def test_a_family_without_vision_prompts_says_why() -> None:
    (refused,) = find_misfits(
        make_bundle("a", vision=2), replace(FACTS, vision_refusal="it reads two layers")
    )
    assert refused == "vision: expected null, came vision prompts; it reads two layers"


def test_a_family_without_mode_released_takes_mode_paper_and_says_why() -> None:
    facts = replace(FACTS, released_refusal="it packs a square grid")
    assert find_misfits(make_bundle("a", vision=2), facts) == []
    (refused,) = find_misfits(make_bundle("a", vision=2, mode="released"), facts)
    assert refused == "vision.mode: expected paper, came released; it packs a square grid"
    assert find_misfits(make_bundle("a", vision=2, mode="released"), FACTS) == []


def test_a_model_whose_pictures_are_rounded_takes_no_frame_and_says_why() -> None:
    spec = FrameSpec(canvas=(4, 4), inner=2)
    framed = make_bundle("a", frame=spec)
    assert find_misfits(framed, FACTS) == []
    (refused,) = find_misfits(framed, replace(FACTS, frame_refusal="it takes 8 bits"))
    assert refused == "frame: expected null, came a frame; it takes 8 bits"


def test_facts_cross_processes_as_plain_values() -> None:
    plain = FACTS.to_plain()
    plain["projector"] = {name: list(shape) for name, shape in plain["projector"].items()}
    assert EngineFacts.from_plain(plain) == FACTS
