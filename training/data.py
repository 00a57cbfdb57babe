"""Where training and evaluation examples come from: a config entry in, an `ExampleSource` out.

An example is one picture (or none), one question and the answer wanted. A source is a plain sequence of
them, deterministic in the index, so that a run can be resumed and a test can name a picture by its number.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from prompts.errors import ConfigError
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

PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Example:
    """One question about one picture. `choices` are the answers it may be ranked among, `answer` one of them."""

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
        folders = sorted(path for path in entry.root.iterdir() if path.is_dir())
        by_class = {_class_name(folder): _pictures(folder) for folder in folders}
        by_class = {name: paths for name, paths in by_class.items() if paths}
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
        self._items = _interleave(by_class)[: entry.limit]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Example:
        name, path = self._items[index]
        return Example(decode_picture(path), self._question, name, self.choices)


class LlavaJsonSource:
    """Question and answer pairs of a LLaVA conversation file; answers only are learned."""

    def __init__(self, entry: LlavaJsonData) -> None:
        self._entry = entry
        records = _read_records(entry.file)
        items: list[tuple[str | None, str, str]] = []
        faults: list[str] = []
        for number, record in enumerate(records):
            try:
                items += _record_pairs(record, entry.turns)
            except (KeyError, TypeError, ValueError) as error:
                faults.append(f"record {number}: {error}")
        if faults or not items:
            raise ConfigError(str(entry.file), faults[:20] or ["no question and answer in it"])
        self._items = items[: entry.limit]

    @cached_property
    def _folder(self) -> Path:
        return self._entry.images.resolve()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Example:
        image, question, answer = self._items[index]
        picture = None if image is None else decode_picture(self._folder / image)
        return Example(picture, question, answer)


def _class_name(folder: Path) -> str:
    return folder.name.replace("_", " ")


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def _interleave(by_class: dict[str, list[Path]]) -> list[tuple[str, Path]]:
    ranked = [(rank, name, path) for name, paths in by_class.items() for rank, path in enumerate(paths)]
    return [(name, path) for _, name, path in sorted(ranked)]


def _read_records(file: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        cure = "correct the path"
        raise ConfigError(
            "data", [fault("file", expected="a JSON file", came=str(file), cure=cure)]
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), [f"not JSON: {error}"]) from error
    if not isinstance(records, list):
        raise ConfigError(str(file), [f"expected a list of records, came {type(records).__name__}"])
    return records


def _record_pairs(record: dict[str, Any], turns: str) -> list[tuple[str | None, str, str]]:
    """(image, question, answer) of one record, the `<image>` marker taken out of the question."""
    if not isinstance(record, dict):
        raise TypeError(f"expected an object, came {type(record).__name__}")
    talk = record.get("conversations")
    if not isinstance(talk, list) or len(talk) < 2:
        raise ValueError("conversations: expected a list of at least one question and one answer")
    pairs = []
    for asked, answered in zip(talk[0::2], talk[1::2], strict=False):
        given = (asked.get("from"), answered.get("from"))
        if given != ("human", "gpt"):
            raise ValueError(f"conversations: expected human, gpt in turn, came {shown(given)}")
        question = str(asked["value"]).replace(IMAGE_TOKEN, "").strip()
        pairs.append((record.get("image"), question, str(answered["value"]).strip()))
    return pairs[:1] if turns == "first" else pairs
