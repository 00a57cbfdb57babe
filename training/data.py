"""Where training and evaluation examples come from: a config entry in, an `ExampleSource` out.

An example is one picture (or none), one question and the answer wanted. A source is a plain sequence of
them, deterministic in the index, so that a run can be resumed and a test can name a picture by its number.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from prompts.errors import ConfigError, PictureError
from prompts.faults import fault, shown
from prompts.picture import decode_picture

__all__ = [
    "DataConfig",
    "Example",
    "ExampleSource",
    "ImageFolderData",
    "LlavaJsonData",
    "PicoData",
    "iterate_source",
    "make_source",
]

PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_FAULTS_GATHERED = 20
IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Example:
    """One question about one picture; `answer` is one of the `choices` it may be ranked among."""

    picture: Image.Image | None
    question: str
    answer: str
    choices: tuple[str, ...] | None = None


class ExampleSource(Protocol):
    """A sequence of examples; the same index always gives the same example."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int, /) -> Example:
        """Example `index`, 0 <= index < len(self)."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LlavaJsonData(_Entry):
    """LLaVA conversation JSON: a list of {id, image, conversations: [{from: human|gpt, value}, …]}."""

    kind: Literal["llava_json"]
    file: Path = Field(description="the JSON file")
    images: Path = Field(description="folder that the records' `image` paths start from")
    turns: Literal["first", "each"] = Field(
        "first", description="use a record's first question only, or each question as an example of its own"
    )
    limit: int | None = Field(None, ge=1, description="use only the first so many examples")


class ImageFolderData(_Entry):
    """One folder per class: ROOT/<class>/<picture>. Underscores in a folder's name are read as spaces."""

    kind: Literal["image_folder"]
    root: Path = Field(description="folder that holds one folder per class")
    question: str = Field("What is in the picture?", description="asked about each picture")
    limit: int | None = Field(None, ge=1, description="use so many pictures, spread evenly over the classes")


class PicoData(_Entry):
    """Pictures drawn on the fly for the embedded model family (see training/pico)."""

    kind: Literal["pico"]
    task: str = Field(description="name of the pico task")
    split: Literal["train", "val", "test"] = "train"
    size: int = Field(ge=1, description="number of examples")
    seed: int = 0


DataConfig = Annotated[LlavaJsonData | ImageFolderData | PicoData, Field(discriminator="kind")]


def make_source(entry: LlavaJsonData | ImageFolderData | PicoData) -> ExampleSource:
    """The source a config entry names.

    Raises:
        ConfigError: a folder or file is missing, empty, or not in the layout its kind says.
    """
    if isinstance(entry, LlavaJsonData):
        return LlavaJsonSource(entry)
    if isinstance(entry, ImageFolderData):
        return ImageFolderSource(entry)
    from training.pico.tasks import make_source as make_pico_source

    source: ExampleSource = make_pico_source(entry.task, entry.split, entry.size, entry.seed)
    return source


def iterate_source(source: ExampleSource) -> Iterator[Example]:
    """Each example once, in order."""
    return (source[index] for index in range(len(source)))


class ImageFolderSource:
    """Pictures of ROOT/<class>/, interleaved by class so that any prefix is balanced."""

    def __init__(self, entry: ImageFolderData) -> None:
        if not entry.root.is_dir():
            expected, cure = "a folder with one folder per class", "correct the path"
            raise ConfigError("data", [fault("root", expected=expected, came=str(entry.root), cure=cure)])
        by_class = _by_class(entry.root)
        if not by_class:
            expected, cure = (
                "pictures at <class>/<picture>",
                f"put {', '.join(sorted(PICTURE_SUFFIXES))} files there",
            )
            raise ConfigError(
                "data", [fault("root", expected=expected, came=f"none in {entry.root}", cure=cure)]
            )
        self._question = entry.question
        self.choices = tuple(by_class)
        self.answers = frozenset(by_class)
        self._items = _interleave(by_class)[: entry.limit]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Example:
        name, path = self._items[index]
        return Example(_read_picture(path), self._question, name, self.choices)


class LlavaJsonSource:
    """Question and answer pairs of a LLaVA conversation file; answers only are learned."""

    def __init__(self, entry: LlavaJsonData) -> None:
        items: list[tuple[str | None, str, str]] = []
        faults: list[str] = []
        for number, record in enumerate(_read_records(entry.file)):
            try:
                items += _record_pairs(record, entry.turns)
            except ValueError as error:
                faults.append(f"record {number}: {error}")
        self._folder, self._items = entry.images, items[: entry.limit]
        faults += self._missing_pictures()
        if not items and not faults:
            cure = "name another file"
            faults.append(fault("file", expected="a question and an answer", came="an empty list", cure=cure))
        if faults:
            raise ConfigError(entry.file, faults[:_FAULTS_GATHERED])

    @property
    def answers(self) -> frozenset[str]:
        """Every answer there is."""
        return frozenset(answer for _, _, answer in self._items)

    @property
    def without_picture(self) -> int:
        """Examples that are text alone."""
        return sum(image is None for image, _, _ in self._items)

    def _missing_pictures(self) -> list[str]:
        names = dict.fromkeys(image for image, _, _ in self._items if image is not None)
        missing = (self._folder / name for name in names if not (self._folder / name).is_file())
        expected, cure = "the picture of each record", "correct `images` or leave the record out"
        return [
            fault("images", expected=expected, came=f"no {path}", cure=cure)
            for path in islice(missing, _FAULTS_GATHERED)
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Example:
        image, question, answer = self._items[index]
        picture = None if image is None else _read_picture(self._folder / image)
        return Example(picture, question, answer)


def _read_picture(path: Path) -> Image.Image:
    """Raises PictureError with the file's name: of a hundred thousand, the broken one must be found."""
    try:
        return decode_picture(path)
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error


def _by_class(root: Path) -> dict[str, list[Path]]:
    """Class name -> its pictures, both sorted; hidden folders and those without pictures left out."""
    by_class: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != "."):
        name, pictures = folder.name.replace("_", " "), _pictures(folder)
        if name in by_class:
            came, cure = f"two called {name!r}", "rename or merge one (an underscore is read as a space)"
            raise ConfigError("data", [fault("root", expected="distinct classes", came=came, cure=cure)])
        if pictures:
            by_class[name] = pictures
    return by_class


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    )


def _interleave(by_class: dict[str, list[Path]]) -> list[tuple[str, Path]]:
    ranked = [(rank, name, path) for name, paths in by_class.items() for rank, path in enumerate(paths)]
    return [(name, path) for _, name, path in sorted(ranked)]


def _read_records(file: Path) -> list[Any]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        came, cure = f"{file} ({error.strerror})", "correct the path"
        raise ConfigError("data", [fault("file", expected="a JSON file", came=came, cure=cure)]) from error
    except ValueError as error:
        raise ConfigError(
            "data", [fault("file", expected="JSON", came=f"{file}: {error}", cure="correct it")]
        ) from error
    if not isinstance(records, list):
        came, cure = type(records).__name__, "use LLaVA's conversation format"
        raise ConfigError("data", [fault("file", expected="a list of records", came=came, cure=cure)])
    return records


def _record_pairs(record: Any, turns: str) -> list[tuple[str | None, str, str]]:
    """(image, question, answer) of one record, the `<image>` marker taken out of the question.

    Raises:
        ValueError: the record is not in LLaVA's format; says what is wrong.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, came {type(record).__name__}")
    image, talk = record.get("image"), record.get("conversations")
    if image is not None and not isinstance(image, str):
        raise ValueError(f"image: expected one file name, came {shown(image)}")
    if not isinstance(talk, list) or len(talk) < 2:
        raise ValueError(f"conversations: expected a question and an answer at least, came {shown(talk)}")
    asked = [_said(message, "human") for message in talk[0::2]]
    answered = [_said(message, "gpt") for message in talk[1::2]]
    pairs = [
        (image, question.replace(IMAGE_TOKEN, "").strip(), answer)
        for question, answer in zip(asked, answered, strict=False)  # a last question may stand unanswered
    ]
    return pairs[:1] if turns == "first" else pairs


def _said(message: Any, speaker: str) -> str:
    given = message if isinstance(message, dict) else {}
    if given.get("from") != speaker or not isinstance(given.get("value"), str):
        expected = f'{{"from": "{speaker}", "value": text}} in its turn'
        raise ValueError(f"conversations: expected {expected}, came {shown(message)}")
    return str(given["value"]).strip()
