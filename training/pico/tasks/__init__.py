"""The pico tasks: what a learned prompt can be taught and measured on, drawn on the fly.

Each task is a function from a random generator to one example. The split's seed (from `split.json`) keeps
train, val and test pictures apart; the index alone decides the example.
"""

from training.pico.tasks.base import CATEGORIES
from training.pico.tasks.instructions import INSTRUCTION_MIXES, INSTRUCTIONS_SEEN, INSTRUCTIONS_UNSEEN
from training.pico.tasks.reasoning import COUNTS
from training.pico.tasks.recognition import LINE_NAMES, NAME_QUESTION
from training.pico.tasks.source import TASKS, PicoSource, make_source

__all__ = [
    "CATEGORIES",
    "COUNTS",
    "INSTRUCTIONS_SEEN",
    "INSTRUCTIONS_UNSEEN",
    "INSTRUCTION_MIXES",
    "LINE_NAMES",
    "NAME_QUESTION",
    "TASKS",
    "PicoSource",
    "make_source",
]
