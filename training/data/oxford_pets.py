"""Oxford-IIIT Pet (Parkhi et al. 2012): 37 breeds of cats and dogs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompts.faults import fault, shown
from training.data.config import OxfordPetsData
from training.data.files import file_source, read_file
from training.data.items import Item, ItemSource

__all__ = ["SPECIES", "open_oxford_pets"]

SPECIES = {"1": "cat", "2": "dog"}
"""Third column of the lists -> species."""

_LAYOUT = "images/<Breed>_<number>.jpg and annotations/{trainval,test}.txt"


@dataclass(frozen=True)
class _Pet:
    stem: str
    species: str

    @property
    def breed(self) -> str:
        """`great_pyrenees_12` -> `great pyrenees`."""
        return self.stem.rpartition("_")[0].replace("_", " ")


def open_oxford_pets(entry: OxfordPetsData) -> ItemSource[Path]:
    """The pictures of one list, interleaved by class; the choices are the classes of the whole list.

    A broken line is left out, and so is one whose picture is missing or outside the folder.

    Raises:
        ConfigError: the list is missing, or nothing in it is whole.
    """
    pets, faults = _read_list(entry.root / "annotations" / f"{entry.split}.txt")
    if entry.labels == "species":
        answers, choices = [pet.species for pet in pets], tuple(SPECIES.values())
    else:
        answers = [pet.breed for pet in pets]
        choices = tuple(sorted(set(answers), key=str.casefold))
    items = [
        Item(f"{pet.stem}.jpg", entry.question, answer, choices)
        for pet, answer in zip(pets, answers, strict=True)
    ]
    return file_source(items, entry.limit, folder=entry.root / "images", expected=_LAYOUT, faults=faults)


def _read_list(file: Path) -> tuple[Sequence[_Pet], list[str]]:
    """The lines `<image> <class> <species> <breed>` of a list, and a fault for each broken one."""
    pets, faults = [], []
    lines = read_file("root", file, expected=_LAYOUT).decode(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) == 4 and "_" in words[0] and words[2] in SPECIES:
            pets.append(_Pet(words[0], SPECIES[words[2]]))
        elif words:
            expected, cure = "<Breed>_<number> <class> <1 or 2> <breed>", "correct the line"
            faults.append(fault(f"{file.name} line {number}", expected=expected, came=shown(line), cure=cure))
    if not pets and not faults:
        cure = "unpack the set again"
        faults.append(fault("root", expected=_LAYOUT, came=f"an empty {file}", cure=cure))
    return pets, faults
