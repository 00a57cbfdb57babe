"""From a config entry to its source: one opener per kind."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from training.data.cifar import open_cifar
from training.data.clevr import open_clevr
from training.data.config import AnyData, PicoData
from training.data.example import ExampleSource
from training.data.folders import open_image_folder, open_imagenette
from training.data.hateful_memes import open_hateful_memes
from training.data.llava_json import open_llava_json
from training.data.oxford_pets import open_oxford_pets
from training.data.pope import open_pope
from training.data.svhn import open_svhn

__all__ = ["OPENERS", "make_source"]


def make_source(entry: AnyData) -> ExampleSource:
    """The source a config entry names.

    Raises:
        ConfigError: a folder or file is missing, empty, or not in the layout its kind says; with the faults
            found (at most 20 of a kind).
    """
    return OPENERS[entry.kind](entry)


def _open_pico(entry: PicoData) -> ExampleSource:
    from training.pico.tasks import make_source as make_pico_source  # it imports Example from here

    source: ExampleSource = make_pico_source(entry.task, entry.split, entry.size, entry.seed)
    return source


OPENERS: Mapping[str, Callable[[Any], ExampleSource]] = MappingProxyType(
    {
        "cifar10": open_cifar,
        "cifar100": open_cifar,
        "clevr": open_clevr,
        "hateful_memes": open_hateful_memes,
        "image_folder": open_image_folder,
        "imagenette": open_imagenette,
        "llava_json": open_llava_json,
        "oxford_pets": open_oxford_pets,
        "pico": _open_pico,
        "pope": open_pope,
        "svhn": open_svhn,
    }
)
"""kind -> what opens it."""
