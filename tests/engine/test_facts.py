"""What does not fit an engine is named, part by part."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts.bundle import Bundle
from prompts.manifest import BaseModelRef, FrameSpec, Manifest, PrefixSpec, TextSpec, VisionSpec
from server.engine.facts import Capacity, EngineFacts, Room, find_misfits

ROOM = Room(tasks=3, text_rows=9, text_vectors=18, vision_rows=6, vision_vectors=18, projectors=1)
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
    room=ROOM,
    refusals={},
)
BASE = BaseModelRef(architecture="LlavaForConditionalGeneration", fingerprint="sha256:" + "0" * 64)


def make_bundle(
    *,
    text: int = 0,
    vision: int = 0,
    mode: str = "paper",
    at: tuple[int, ...] | None = None,
    **parts: object,
) -> Bundle:
    """In memory, with no more than the projector's tensor."""
    manifest = Manifest(
        name="task",
        version="1",
        base_model=BASE,
        text=TextSpec(layers=2, length=text, hidden=4, at=at) if text else None,
        vision=VisionSpec(layers=3, length=vision, hidden=6, mode=mode) if vision else None,
        **parts,
    )
    tensors = {"projector.linear_1.weight": torch.zeros(4, 5)} if manifest.projector else {}
    return Bundle(manifest, tensors, "a" * 64, Path("task"))


def test_every_misfit_is_named() -> None:
    facts = replace(FACTS, text_layers=5, max_vision_length=1)
    bundle = make_bundle(text=9, vision=2, projector=True, lm_head=True)
    for one in (bundle, bundle.outlined()):
        text, text_length, vision_length, projector, lm_head = find_misfits(one, facts)
        assert lm_head.startswith("lm_head.weight: expected shape (9, 4), came shape None")
        assert text.startswith("text: expected 5 layers of width 4, came 2 layers of width 4")
        assert text_length.startswith("text.length: expected at most 8, came 9")
        assert vision_length.startswith("vision.length: expected at most 1, came 2")
        assert projector.startswith("projector.linear_1.weight: expected shape (4, 6), came shape (4, 5)")


@pytest.mark.parametrize(
    ("part", "parts", "said"),
    [
        ("vision", {"vision": 2}, "vision: expected null, came vision prompts"),
        ("vision.mode", {"vision": 2, "mode": "released"}, "vision.mode: expected paper, came released"),
        ("projector", {"text": 1, "projector": True}, "projector: expected false, came true"),
        ("lm_head", {"text": 1, "lm_head": True}, "lm_head: expected false, came true"),
        (
            "frame",
            {"text": 1, "frame": FrameSpec(canvas=(9, 9), inner=3)},
            "frame: expected null, came a frame",
        ),
    ],
)
def test_what_a_family_does_not_take_is_refused_with_its_reason(
    part: str, parts: dict[str, Any], said: str
) -> None:
    facts = replace(FACTS, refusals={part: "it reads two layers"})
    assert find_misfits(make_bundle(**parts), facts) == [f"{said}; it reads two layers"]
    others = dict.fromkeys(("vision", "vision.mode", "projector", "lm_head", "frame"), "another")
    kept = find_misfits(make_bundle(text=1), replace(FACTS, refusals=others))
    assert kept == []


def test_an_lm_head_needs_text_prompts_and_the_models_vocabulary() -> None:
    (alone,) = find_misfits(make_bundle(vision=1, lm_head=True), FACTS)
    assert alone.startswith("lm_head: expected text prompts beside it, came none")
    (misshapen,) = find_misfits(make_bundle(text=1, lm_head=True), FACTS)
    assert misshapen.startswith("lm_head.weight: expected shape (9, 4), came shape None")


def test_a_prefix_must_have_the_models_heads_and_room() -> None:
    def make(layers: int = 2, length: int = 3, kv_heads: int = 2) -> Bundle:
        spec = PrefixSpec(layers=layers, length=length, kv_heads=kv_heads, head_dim=4)
        return make_bundle(prefix=spec)

    facts = replace(FACTS, prefix=(2, 4), room=replace(ROOM, prefix_rows=3))
    assert find_misfits(make(), facts) == []
    for misfit in (make(layers=1), make(kv_heads=1)):
        (shape,) = find_misfits(misfit, facts)
        assert shape.startswith("prefix: expected 2 layers of 2 key heads of width 4, came ")
    (length,) = find_misfits(make(length=9), facts)
    assert length.startswith("prefix.length: expected at most 8, came 9")
    (room,) = find_misfits(make(length=4), facts)
    assert room.startswith("room for prefix_rows: expected at most 3, came 4; start again with --prefix-rows")
    (refused,) = find_misfits(make(layers=1), replace(facts, refusals={"prefix": "its layers share keys"}))
    assert refused == "prefix: expected null, came a prefix; its layers share keys"


def test_what_would_not_fit_an_empty_device_is_refused_at_once() -> None:
    small = replace(ROOM, text_rows=3, text_vectors=5)
    rows, vectors = find_misfits(make_bundle(text=4), FACTS, small)
    assert rows == "room for text_rows: expected at most 3, came 4; raise --text-rows and start again"
    assert vectors.startswith("room for text_vectors: expected at most 5, came 8")
    assert find_misfits(make_bundle(text=3, at=(0,)), FACTS, small) == []
    (projectors,) = find_misfits(make_bundle(text=1, projector=True).outlined(), *_with_projector(0))
    assert "room for projectors: expected at most 0, came 1; start again with --projectors" in projectors


def _with_projector(places: int) -> tuple[EngineFacts, Room]:
    return replace(FACTS, projector={"linear_1.weight": (4, 5)}), replace(ROOM, projectors=places)


def test_room_is_added_taken_and_shared() -> None:
    needed = Room.of(make_bundle(text=3, vision=4, at=(0,)).manifest)
    assert needed == Room(tasks=1, text_rows=3, text_vectors=3, vision_rows=4, vision_vectors=12)
    left = ROOM - needed
    assert left + needed == ROOM
    assert ROOM.lacks(needed) == []
    assert left.lacks(needed) == ["vision_rows", "vision_vectors"]
    assert ROOM.share(2) == Room(tasks=1, text_rows=4, text_vectors=9, vision_rows=3, vision_vectors=9)


def test_facts_cross_processes_as_plain_values() -> None:
    plain = FACTS.to_plain()
    plain["prefix"] = list(FACTS.prefix)
    plain["projector"] = {name: list(shape) for name, shape in plain["projector"].items()}
    assert EngineFacts.from_plain(plain) == FACTS


def test_a_capacity_is_read_back_from_vllms_config() -> None:
    given = Capacity(tasks=4, text_rows=7, prefix_rows=6, vision_vectors=9)
    assert Capacity.from_additional_config({"passepartout": {**vars(given), "injection": 2}}) == given
    assert Capacity.from_additional_config({}) == Capacity()
    room = given.room(text_layers=3, vision_layers=0)
    assert (room.text_vectors, room.vision_rows, room.vision_vectors, room.prefix_rows) == (21, 0, 0, 0)
    assert given.room(text_layers=3, vision_layers=0, takes_prefixes=True).prefix_rows == 6
    assert given.room(text_layers=3, vision_layers=2).vision_vectors == 9
