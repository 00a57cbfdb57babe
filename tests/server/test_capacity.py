"""The room that is planned for the bundles of a store, part by part."""

from typing import Any

import pytest

from prompts.manifest import Manifest, PrefixSpec, TextSpec, VisionSpec
from server.capacity import plan_capacity
from server.engine.facts import Capacity, Room
from tests.prompts.sample import BASE

LAYERS, VISION_LAYERS = 5, 3


def manifest(
    *, text: int = 0, at: tuple[int, ...] | None = None, vision: int = 0, prefix: int = 0, **parts: Any
) -> Manifest:
    """Of a bundle with prompts of these lengths."""
    return Manifest(
        name="task",
        version="1",
        base_model=BASE,
        text=TextSpec(layers=LAYERS, length=text, hidden=4, at=at) if text else None,
        vision=VisionSpec(layers=VISION_LAYERS, length=vision, hidden=6, mode="paper") if vision else None,
        prefix=PrefixSpec(layers=LAYERS, length=prefix, kv_heads=1, head_dim=4) if prefix else None,
        **parts,
    )


def plan(*manifests: Manifest, tasks: int, **given: int) -> Capacity:
    return plan_capacity(manifests, tasks=tasks, host_tasks=1, **given)


def room_of(capacity: Capacity) -> Room:
    return capacity.room(text_layers=LAYERS, vision_layers=VISION_LAYERS, takes_prefixes=True)


def test_prompts_at_some_layers_take_room_at_those_alone() -> None:
    soft = manifest(text=4, at=(0,))
    assert room_of(plan(soft, soft, tasks=2)) == Room(tasks=2, text_rows=8, text_vectors=8)
    mixed = room_of(plan(soft, manifest(text=3), manifest(text=1, at=(1, 4)), tasks=2))
    assert (mixed.text_rows, mixed.text_vectors) == (4 + 3, 3 * LAYERS + 4), "the largest two of either"


def test_places_left_are_reckoned_at_the_usual_lengths_in_all_layers() -> None:
    room = room_of(plan(manifest(text=4, at=(0,)), manifest(vision=2), tasks=5))
    assert (room.text_rows, room.text_vectors) == (4 + 3 * 10, 4 + 3 * 10 * LAYERS)
    assert (room.vision_rows, room.vision_vectors) == (2 + 3 * 20, (2 + 3 * 20) * VISION_LAYERS)
    for none_of_either in (plan(tasks=3), plan(manifest(prefix=2), tasks=4)):
        room = room_of(none_of_either)
        assert (room.text_rows, room.text_vectors) == (30, 30 * LAYERS)
        assert (room.vision_rows, room.vision_vectors) == (60, 60 * VISION_LAYERS)


def test_rows_said_by_hand_have_a_vector_at_every_layer() -> None:
    store = (manifest(text=4, at=(0,)), manifest(vision=2))
    room = room_of(plan(*store, tasks=2, text_rows=7, vision_rows=9))
    assert (room.text_rows, room.text_vectors) == (7, 7 * LAYERS)
    assert (room.vision_rows, room.vision_vectors) == (9, 9 * VISION_LAYERS)


def test_a_bundle_for_a_deeper_model_takes_no_more_than_every_layer() -> None:
    deeper = Manifest(name="task", version="1", text=TextSpec(layers=99, length=2, hidden=4), base_model=BASE)
    assert room_of(plan(deeper, tasks=2)).text_vectors == (2 + 10) * LAYERS


@pytest.mark.parametrize(
    ("with_one", "without", "tasks", "places"),
    [
        (0, 0, 4, 4),  # an empty store may get any
        (0, 1, 4, 0),
        (1, 0, 1, 1),
        (1, 1, 4, 2),  # its own, and one for a changed one beside it
        (1, 3, 4, 1),
        (3, 0, 4, 4),
        (4, 0, 4, 4),
        (9, 9, 4, 4),
        (2, 9, 4, 2),
    ],
)
def test_projectors_have_the_places_they_need_and_one_to_change_in(
    with_one: int, without: int, tasks: int, places: int
) -> None:
    store = [manifest(text=1, projector=True)] * with_one + [manifest(text=1)] * without
    assert plan(*store, tasks=tasks).projectors == places
    assert plan(*store, tasks=tasks, projectors=3).projectors == 3


def test_there_is_room_for_the_output_layers_and_prefixes_of_the_store_alone() -> None:
    store = [manifest(text=1, lm_head=True), manifest(text=1), *(manifest(prefix=one) for one in (2, 5, 3))]
    capacity = plan(*store, tasks=2)
    assert (capacity.lm_heads, capacity.prefix_rows) == (1, 5 + 3)
    assert (plan(store[1], tasks=2).lm_heads, plan(store[1], tasks=2).prefix_rows) == (0, 0)


def test_front_ends_share_a_device_that_takes_any_bundle_in_each_part() -> None:
    store = [
        manifest(text=4, lm_head=True),
        manifest(text=1, vision=2, projector=True),
        manifest(text=2, at=(0,)),
    ]
    one = plan(*store, tasks=2)
    assert (one.text_rows, one.text_vectors, one.lm_heads, one.projectors) == (6, 5 * LAYERS, 1, 1)
    two = plan(*store, tasks=4, front_ends=2)
    assert (two.tasks, two.text_rows, two.text_vectors) == (4, 12, 10 * LAYERS)
    assert (two.lm_heads, two.projectors, two.vision_vectors) == (2, 2, 2 * 2 * VISION_LAYERS)
    part = room_of(two).share(2)
    assert all(part.lacks(Room.of(need)) == [] for need in store)
