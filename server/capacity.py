"""How much of the device tasks get: what the bundles of the store need, or what the operator says."""

from collections.abc import Sequence

from prompts.manifest import Manifest
from server.engine.facts import Capacity, Room

__all__ = ["plan_capacity"]

_USUAL_TEXT_ROWS, _USUAL_VISION_ROWS = 10, 20
"""M²PT's own lengths (EMNLP 2024, 10 textual and 20 visual tokens); for tasks that are still to come."""


def plan_capacity(
    manifests: Sequence[Manifest],
    *,
    tasks: int,
    host_tasks: int,
    text_rows: int = 0,
    vision_rows: int = 0,
    prefix_rows: int = 0,
    projectors: int = 0,
    lm_heads: int = 0,
    front_ends: int = 1,
) -> Capacity:
    """Returns room for any `tasks` of the store's bundles, whose `manifests` are given, at once.

    Of each part that is what the bundles with the most of it need. Where the store holds fewer than `tasks`,
    the places left are reckoned at the usual lengths in all layers, and there is one projector more than the
    store's bundles have, so that a changed one comes in beside the old. Of what no bundle has (projectors,
    lm_heads, prefixes) there is none; an empty store may get a projector for each task.
    `front_ends` share it all in equal parts, any of which has to take any bundle. Numbers other than 0 are
    taken as they are, rows with a vector at every layer.
    """
    each = tasks // front_ends
    spare = max(each - len(manifests), 0)
    text_layers = max((one.text.layers for one in manifests if one.text), default=0)
    vision_layers = max((one.vision.layers for one in manifests if one.vision), default=0)
    most = _most([Room.of(one) for one in manifests], each)
    needed = most + Room(
        text_rows=spare * _USUAL_TEXT_ROWS,
        text_vectors=spare * _USUAL_TEXT_ROWS * text_layers,
        vision_rows=spare * _USUAL_VISION_ROWS,
        vision_vectors=spare * _USUAL_VISION_ROWS * vision_layers,
        projectors=_spare_projectors(most.projectors, spare, is_empty=not manifests),
    )
    return Capacity(
        tasks=tasks,
        host_tasks=host_tasks,
        text_rows=text_rows or front_ends * needed.text_rows,
        text_vectors=0 if text_rows else front_ends * needed.text_vectors,
        vision_rows=vision_rows or front_ends * needed.vision_rows,
        vision_vectors=0 if vision_rows else front_ends * needed.vision_vectors,
        prefix_rows=prefix_rows or front_ends * needed.prefix_rows,
        projectors=projectors or front_ends * needed.projectors,
        lm_heads=lm_heads or front_ends * needed.lm_heads,
    )


def _most(needs: Sequence[Room], count: int) -> Room:
    """Room for any `count` of them: of each part, what those with the most of it need."""
    parts = {name: [getattr(one, name) for one in needs] for name in vars(Room())}
    return Room(**{name: sum(sorted(part, reverse=True)[:count]) for name, part in parts.items()})


def _spare_projectors(held: int, spare: int, *, is_empty: bool) -> int:
    """One takes as much as the prompts of ten tasks."""
    if is_empty:
        return spare
    return min(spare, 1) if held else 0
