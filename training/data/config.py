"""What a config says of its data: one entry per file layout, told apart by `kind`.

Paths are relative to the current folder. `limit` spreads the examples evenly over the answers where there is
a fixed set of them; the order is the same at every start.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from prompts.faults import shown
from training.data.config_hf import HfData
from training.data.entry import Entry

__all__ = [
    "AnyData",
    "AnyPart",
    "Cifar10Data",
    "Cifar100Data",
    "CifarData",
    "ClevrData",
    "DataConfig",
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
]

Limit = Annotated[int | None, Field(ge=1, description="use so many examples, spread evenly over the answers")]


class LlavaJsonData(Entry):
    """LLaVA conversation JSON: a list of {id, image, conversations: [{from: human|gpt, value}, …]}."""

    kind: Literal["llava_json"]
    file: Path = Field(description="the JSON file")
    images: Path = Field(description="folder that the records' `image` paths start from")
    turns: Literal["first", "each"] = Field(
        "first", description="use a record's first question only, or each question as an example of its own"
    )
    limit: int | None = Field(None, ge=1, description="use only the first so many examples")


class PicoData(Entry):
    """Pictures drawn on the fly for the embedded model family (see training/pico)."""

    kind: Literal["pico"]
    task: str = Field(
        description="name of the pico task; instructions, instructions_unseen: as much of each instruction"
    )
    split: Literal["train", "val", "test"] = "train"
    size: int = Field(ge=1, description="number of examples")
    seed: int = 0


class _ClassEntry(Entry):
    """Pictures that each belong to one class: the same question about each, the class is the answer."""

    question: str = Field("What is in the picture?", description="asked about each picture")
    limit: Limit = None


class ImageFolderData(_ClassEntry):
    """One folder per class: ROOT/<class>/<picture>. Underscores in a folder's name are read as spaces."""

    kind: Literal["image_folder"]
    root: Path = Field(description="folder that holds one folder per class")


class ImageNetteData(_ClassEntry):
    """ImageNette: ROOT/{train,val}/<WordNet id>/<picture>. Ids of other classes are left out."""

    kind: Literal["imagenette"]
    root: Path = Field(description="folder that holds train/ and val/")
    split: Literal["train", "val"] = "train"


class Cifar10Data(_ClassEntry):
    """CIFAR-10: the folder cifar-10-batches-bin (preferred: plain bytes) or cifar-10-batches-py (pickles).

    The pickles are read by a reader that cannot run code (see training/data/batch_pickle.py).
    """

    kind: Literal["cifar10"]
    root: Path = Field(description="folder that holds data_batch_1 … 5 and test_batch, with or without .bin")
    split: Literal["train", "test"] = "train"


class Cifar100Data(_ClassEntry):
    """CIFAR-100: the folder cifar-100-binary (preferred: plain bytes) or cifar-100-python (pickles).

    The pickles are read by a reader that cannot run code (see training/data/batch_pickle.py).
    """

    kind: Literal["cifar100"]
    root: Path = Field(description="folder that holds train and test, with or without .bin")
    split: Literal["train", "test"] = "train"
    labels: Literal["fine", "coarse"] = Field("fine", description="100 classes, or the 20 groups of them")


CifarData = Cifar10Data | Cifar100Data


class SvhnData(_ClassEntry):
    """SVHN, format 2 (cropped digits): ROOT/{train,test,extra}_32x32.mat. Needs scipy."""

    kind: Literal["svhn"]
    root: Path = Field(description="folder that holds the .mat files")
    split: Literal["train", "test", "extra"] = "train"
    question: str = Field("Which digit is in the picture?", description="asked about each picture")


class OxfordPetsData(_ClassEntry):
    """Oxford-IIIT Pet: ROOT/images/<Breed>_<number>.jpg and ROOT/annotations/{trainval,test}.txt."""

    kind: Literal["oxford_pets"]
    root: Path = Field(description="folder that holds images/ and annotations/")
    split: Literal["trainval", "test"] = "trainval"
    labels: Literal["breed", "species"] = Field("breed", description="37 breeds, or cat and dog")


class _RecordEntry(Entry):
    """Records that bring their own text, which `question` puts into words."""

    slot: ClassVar[str] = "{question}"
    question: str = Field("{question}", description="what is asked; {question} is the record's own question")
    limit: Limit = None

    @field_validator("question")
    @classmethod
    def _has_the_slot(cls, question: str) -> str:
        if cls.slot not in question:
            raise ValueError(f"expected {cls.slot} in the question, came {shown(question)}; write it in")
        return question

    def ask(self, text: str) -> str:
        """The question about a record whose text is `text`."""
        return self.question.replace(self.slot, text)


class ClevrData(_RecordEntry):
    """CLEVR: ROOT/questions/CLEVR_<split>_questions.json and ROOT/images/<split>/*.png.

    The split test has no answers. The TVP paper counts on CLEVR: `only: counting`.
    """

    kind: Literal["clevr"]
    root: Path = Field(description="folder that holds questions/ and images/")
    split: Literal["train", "val"] = "train"
    only: Literal["counting"] | None = Field(None, description="counting: questions answered by a number")


class PopeData(_RecordEntry):
    """POPE: ROOT/coco_pope_<split>.json, a line per question, and COCO's pictures (val2014)."""

    kind: Literal["pope"]
    root: Path = Field(description="folder that holds the coco_pope_*.json files")
    images: Path = Field(description="folder that holds the pictures they name")
    split: Literal["random", "popular", "adversarial"] = Field(
        "random", description="how the absent things were sampled"
    )


class HatefulMemesData(_RecordEntry):
    """Hateful Memes: ROOT/<split>.jsonl and the pictures at ROOT/img/. Answers: yes, no."""

    slot: ClassVar[str] = "{text}"
    kind: Literal["hateful_memes"]
    root: Path = Field(description="folder that holds the .jsonl files and img/")
    split: Literal["train", "dev", "dev_seen", "dev_unseen", "test_seen", "test_unseen"] = "train"
    question: str = Field(
        'The text in the picture is: "{text}" Is this meme hateful?',
        description="what is asked; {text} is the meme's text",
    )


AnyPart = (
    ImageFolderData
    | ImageNetteData
    | Cifar10Data
    | Cifar100Data
    | SvhnData
    | OxfordPetsData
    | ClevrData
    | PopeData
    | HatefulMemesData
    | LlavaJsonData
    | HfData
    | PicoData
)
"""What a mix may be made of: everything but another mix."""


class MixPart(Entry):
    """One part of a mix."""

    data: Annotated[AnyPart, Field(discriminator="kind")] = Field(description="an entry of any other kind")
    weight: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="how much of the mix it is (default: as large as it is)"
    )
    name: str | None = Field(
        None, min_length=1, description="for counts and faults (default: its place and kind)"
    )


class MixData(Entry):
    """Several entries as one, shuffled together (see training/data/mix.py).

    Nested mixes are refused: write their parts side by side, with the weights that come to the same.
    """

    kind: Literal["mix"]
    parts: tuple[MixPart, ...] = Field(description="entries, each with a weight or none of them")
    size: int | None = Field(
        None, ge=1, description="examples (default: the fewest at which every part is there whole)"
    )
    seed: int = Field(0, ge=0, description="of the order they are mixed in")

    @model_validator(mode="after")
    def _is_told_apart(self) -> "MixData":
        if not self.parts:
            raise ValueError("expected parts, came none; name one at least")
        weighed = [part.weight is not None for part in self.parts]
        if any(weighed) and not all(weighed):
            came = f"{sum(weighed)} of {len(weighed)}"
            raise ValueError(f"expected a weight in each part or in none, came {came}; add the others")
        if any(isinstance(part.data, HfData) and part.data.streaming for part in self.parts):
            raise ValueError("expected parts whose sizes are known, came streaming: true; leave it out")
        if len(self.named) < len(self.parts):
            raise ValueError("expected parts of different names, came one twice; rename it")
        return self

    @property
    def named(self) -> dict[str, MixPart]:
        """Name -> part, in order."""
        return {part.name or f"{n}:{part.data.kind}": part for n, part in enumerate(self.parts)}


AnyData = AnyPart | MixData

DataConfig = Annotated[AnyData, Field(discriminator="kind")]
