"""Where training and evaluation examples come from: a config entry in, an `ExampleSource` out.

An example is one picture (or none), one question and the answer wanted. A source is a plain sequence of
them, deterministic in the index, so that a run can be resumed and a test can name a picture by its number.
Public sets are read as users have them on disk (docs/datasets.md); nothing is ever downloaded.
"""

from training.data.config import (
    AnyData,
    AnyPart,
    Cifar10Data,
    Cifar100Data,
    CifarData,
    ClevrData,
    DataConfig,
    HatefulMemesData,
    HfData,
    ImageFolderData,
    ImageNetteData,
    LlavaJsonData,
    MixData,
    MixPart,
    OxfordPetsData,
    PicoData,
    PopeData,
    SvhnData,
)
from training.data.example import Example, ExampleSource, ExampleStream, iterate_source
from training.data.make import make_source, open_data

__all__ = [
    "AnyData",
    "AnyPart",
    "Cifar10Data",
    "Cifar100Data",
    "CifarData",
    "ClevrData",
    "DataConfig",
    "Example",
    "ExampleSource",
    "ExampleStream",
    "HatefulMemesData",
    "HfData",
    "ImageFolderData",
    "ImageNetteData",
    "LlavaJsonData",
    "MixData",
    "MixPart",
    "OxfordPetsData",
    "PicoData",
    "PopeData",
    "SvhnData",
    "iterate_source",
    "make_source",
    "open_data",
]
