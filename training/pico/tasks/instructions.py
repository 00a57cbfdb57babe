"""The instruction mix of the pico family: eight instructions to train on, five that no training sees.

Zero-shot instruction learning as M²PT means it (EMNLP 2024): a prompt is tuned on instructions of many kinds
and measured on kinds that were not among them. Each instruction has several phrasings, draws known
glyphs alone in every split (held-out glyphs stay held out), and gives each example the answers it may be
ranked among.
"""

from collections.abc import Mapping
from types import MappingProxyType

from training.pico.tasks import arranged, asked_anew, told
from training.pico.tasks.base import Draw

__all__ = ["INSTRUCTIONS", "INSTRUCTIONS_SEEN", "INSTRUCTIONS_UNSEEN", "INSTRUCTION_MIXES"]

INSTRUCTIONS: Mapping[str, Draw] = MappingProxyType(
    {
        "instruct_background": arranged.background,
        "instruct_category": asked_anew.category,
        "instruct_chat": told.chat,
        "instruct_count": asked_anew.count,
        "instruct_describe": told.describe,
        "instruct_digits": asked_anew.digit,
        "instruct_larger": arranged.larger,
        "instruct_lines": asked_anew.lines,
        "instruct_more": arranged.more,
        "instruct_name": asked_anew.name,
        "instruct_odd_one_out": told.odd_one_out,
        "instruct_position": arranged.position,
        "instruct_presence": asked_anew.presence,
    }
)
"""Task -> what draws its examples."""

INSTRUCTIONS_SEEN = (
    "instruct_name",
    "instruct_describe",
    "instruct_background",
    "instruct_count",
    "instruct_position",
    "instruct_category",
    "instruct_presence",
    "instruct_digits",
)
"""Those to train on."""

INSTRUCTIONS_UNSEEN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "instruct_larger": ("instruct_name", "instruct_position"),
        "instruct_more": ("instruct_name", "instruct_count"),
        "instruct_odd_one_out": ("instruct_category", "instruct_describe"),
        "instruct_lines": ("instruct_name",),
        "instruct_chat": ("instruct_describe", "instruct_category", "instruct_presence"),
    }
)
"""Those to measure on, each with the seen ones that teach the skills it needs."""

INSTRUCTION_MIXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"instructions": INSTRUCTIONS_SEEN, "instructions_unseen": tuple(INSTRUCTIONS_UNSEEN)}
)
"""Name of a mix -> its tasks, each with the same share."""
