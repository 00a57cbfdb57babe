"""How the instruction tasks are asked: several phrasings of each, drawn as an example is drawn."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from training.pico.tasks.base import article

__all__ = ["PHRASES", "a", "asked", "listed"]

PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "background": (
            "What colour is the background?",
            "Which colour does the background have?",
            "Name the colour behind the thing.",
            "On what colour of ground is the thing shown?",
            "Look behind the thing. Which colour do you see?",
        ),
        "category": (
            "What kind of thing is in the picture?",
            "Is this an animal, food, a vehicle, clothing or a face?",
            "Sort the picture: animal, food, vehicle, clothing or face?",
            "Which group does the thing belong to: animal, food, vehicle, clothing or face?",
            "Name the kind of thing that is shown.",
        ),
        "count": (
            "How many things are in the picture?",
            "Count the things.",
            "What is the number of things shown?",
            "How many different things can you see?",
            "Say how many things there are.",
        ),
        "describe": (
            "Describe the picture from left to right.",
            "List what the picture shows, from left to right.",
            "Going from left to right, what do you see?",
            "What is in the picture? Begin on the left.",
            "Name each thing in the picture, the leftmost first.",
        ),
        "digits": (
            "Which digit is in the picture?",
            "Read the digit.",
            "What number is written here?",
            "Name the handwritten digit.",
            "Which digit did someone write?",
        ),
        "larger": (
            "Which is larger, the {first} or the {second}?",
            "The {first} or the {second}: which one is bigger?",
            "Compare the {first} with the {second}. Which is larger?",
            "Of the {first} and the {second}, name the bigger one.",
        ),
        "lines": (
            "What does the drawing show?",
            "Someone drew this with a black pen. What is it?",
            "Name what is drawn.",
            "What are these lines a picture of?",
        ),
        "more": (
            "What is there more of, the {first} or the {second}?",
            "Which comes more often in the picture, the {first} or the {second}?",
            "Compare by number: the {first} or the {second}?",
            "The {first} or the {second}: which is shown more times?",
        ),
        "name": (
            "What is in the picture?",
            "What is this?",
            "Name what you see.",
            "What does the picture show?",
            "Give the name of the thing shown.",
            "Say what this is called.",
        ),
        "odd_one_out": (
            "Which thing does not belong with the others?",
            "Find the odd one out.",
            "One thing is of another kind than the rest. Which?",
            "All but one are of the same kind. Name the one that is not.",
        ),
        "position": (
            "Where is the {name}: left, right, top or bottom?",
            "On which side of the picture is the {name}: left, right, top or bottom?",
            "Find the {name}. Is it at the left, right, top or bottom?",
            "Say where the {name} is: left, right, top or bottom.",
        ),
        "presence": (
            "Is there {a_name} in the picture?",
            "Does the picture show {a_name}?",
            "Can you see {a_name}?",
            "Look for {a_name}. Is there one?",
            "Yes or no: the picture has {a_name} in it.",
        ),
    }
)
"""Instruction -> its phrasings; the names in braces are what a task fills in."""


def asked(rng: np.random.Generator, instruction: str, **fields: str) -> str:
    """One of an instruction's phrasings, each as likely as the others."""
    phrasings = PHRASES[instruction]
    return phrasings[int(rng.integers(len(phrasings)))].format(**fields)


def a(name: str) -> str:
    """`a cat`, `an owl`."""
    return f"{article(name)} {name}"


def listed(names: list[str]) -> str:
    """`a cat`, `a cat and an owl`, `a cat, an owl and a taco`."""
    said = [a(name) for name in names]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
