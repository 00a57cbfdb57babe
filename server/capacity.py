"""How much of the device tasks get: what the bundles of the store need, or what the operator says."""

from collections.abc import Sequence

from server.engine.facts import Capacity, Room

__all__ = ["plan_capacity"]

_USUAL_TEXT_ROWS, _USUAL_VISION_ROWS = 10, 20
"""M²PT's own lengths (EMNLP 2024, 10 textual and 20 visual tokens); for tasks that are still to come."""


def plan_capacity(
    needs: Sequence[Room],
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
    """Returns room for any `tasks` of the bundles whose `needs` are given, all of them on the device at once.

    Where the store holds fewer, the places left are reckoned at the usual lengths. A projector takes as much
    as all prompts of a task: places for them there are none if no bundle has one, unless the store is empty.
    An lm_head takes as much as a hundred tasks, and prefixes a look at every token of every layer: there are
    places for those the store holds. `front_ends` share it all in equal parts, any of which has to take any
    bundle. Numbers other than 0 are taken as they are.
    """
    each = tasks // front_ends
    spare = max(each - len(needs), 0)
    has_projectors = not needs or any(one.projectors for one in needs)
    needed = {
        "text_rows": _largest([one.text_rows for one in needs], each) + spare * _USUAL_TEXT_ROWS,
        "vision_rows": _largest([one.vision_rows for one in needs], each) + spare * _USUAL_VISION_ROWS,
        "prefix_rows": _largest([one.prefix_rows for one in needs], each),
        "projectors": each if has_projectors else 0,
        "lm_heads": min(sum(one.lm_heads for one in needs), each),
    }
    return Capacity(
        tasks=tasks,
        host_tasks=host_tasks,
        text_rows=text_rows or front_ends * needed["text_rows"],
        vision_rows=vision_rows or front_ends * needed["vision_rows"],
        prefix_rows=prefix_rows or front_ends * needed["prefix_rows"],
        projectors=projectors or front_ends * needed["projectors"],
        lm_heads=lm_heads or front_ends * needed["lm_heads"],
    )


def _largest(lengths: Sequence[int], count: int) -> int:
    return sum(sorted(lengths, reverse=True)[:count])
