"""From a config entry to its source: one opener per kind."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from prompts.errors import ConfigError
from prompts.faults import fault
from training.data.broken import refuse_broken
from training.data.cifar import open_cifar
from training.data.clevr import open_clevr
from training.data.config import AnyData, MixData, PicoData
from training.data.example import ExampleSource, ExampleStream
from training.data.files import refuse
from training.data.folders import open_image_folder, open_imagenette
from training.data.hateful_memes import open_hateful_memes
from training.data.hf import open_hf
from training.data.llava_json import open_llava_json
from training.data.mix import MixSource
from training.data.oxford_pets import open_oxford_pets
from training.data.pope import open_pope
from training.data.svhn import open_svhn

__all__ = ["OPENERS", "make_source", "open_data"]


def make_source(entry: AnyData, *, max_broken_share: float = 0.0) -> ExampleSource:
    """The source a config entry names.

    Args:
        max_broken_share: of its records that may be broken; they are left out, and the source names them
            (see `training.data.broken`). The default is for measures, whose n must not change by itself.

    Raises:
        ConfigError: a folder or file is missing, empty, or not in the layout its kind says, more records than
            that are broken, or the entry is a stream; with the faults found (at most 20 of a kind).
    """
    opened = open_data(entry, max_broken_share=max_broken_share)
    if isinstance(opened, ExampleStream):
        expected, cure = "false where the number of examples must be known", "leave it out"
        raise ConfigError("data", [fault("streaming", expected=expected, came="true", cure=cure)])
    return opened


def open_data(entry: AnyData, *, max_broken_share: float = 0.0) -> ExampleSource | ExampleStream:
    """As `make_source`; an entry with `streaming: true` gives a stream.

    Raises:
        ConfigError: as `make_source`.
    """
    opened = OPENERS[entry.kind](entry)
    if not isinstance(opened, ExampleStream):
        refuse_broken(opened, max_broken_share)
    return opened


def _open_mix(entry: MixData) -> MixSource:
    """Each part as an entry of its kind.

    Raises:
        ConfigError: with the faults of all parts.
    """
    parts: dict[str, ExampleSource] = {}
    faults: list[str] = []
    for number, (name, part) in enumerate(entry.named.items()):
        try:
            parts[name] = OPENERS[part.data.kind](part.data)
        except ConfigError as error:
            faults += [f"parts.{number}: {one}" for one in error.faults]
    refuse(faults)
    given = {name: part.weight for name, part in entry.named.items() if part.weight is not None}
    return MixSource(parts, weights=given or None, size=entry.size, seed=entry.seed)


def _open_pico(entry: PicoData) -> ExampleSource:
    from training.pico.tasks import make_source as make_pico_source  # it imports Example from here

    source: ExampleSource = make_pico_source(entry.task, entry.split, entry.size, entry.seed)
    return source


OPENERS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "cifar10": open_cifar,
        "cifar100": open_cifar,
        "clevr": open_clevr,
        "hateful_memes": open_hateful_memes,
        "hf": open_hf,
        "image_folder": open_image_folder,
        "imagenette": open_imagenette,
        "llava_json": open_llava_json,
        "mix": _open_mix,
        "oxford_pets": open_oxford_pets,
        "pico": _open_pico,
        "pope": open_pope,
        "svhn": open_svhn,
    }
)
"""kind -> what opens it, as an `ExampleSource`, or an `ExampleStream` where the entry says so."""
