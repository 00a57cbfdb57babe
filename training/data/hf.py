"""Hugging Face `datasets` on this disk: a folder of `save_to_disk`, or Parquet, Arrow or JSON files.

Only files that the config names are read, by the readers that come with `datasets`; no repository is asked
for and no script of a data set is run. Its own decoding of pictures is off.
"""

import contextlib
import glob
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.data.config import HfData
from training.data.example import Example
from training.data.files import refuse
from training.data.hf_rows import RowReader
from training.data.items import Item, ItemSource

__all__ = ["HfStream", "open_hf"]

_READERS: Mapping[str, str] = MappingProxyType(
    {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json"}
)
"""Suffix -> what `datasets` calls its reader."""
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_SCANNED_AT_ONCE = 1000
_EXPECTED = "a folder of save_to_disk, or .parquet, .arrow, .json or .jsonl files of one kind"


def open_hf(entry: HfData) -> "ItemSource[int] | HfStream":
    """The rows in their order, a broken one left out; or, with `streaming`, a stream of them.

    Opening reads every question and answer, but no picture. A stream reads one row, to know its columns.

    Raises:
        ConfigError: `datasets` is not installed, nothing readable is there, a column is missing, or no row
            is whole.
    """
    _library()
    with _named(entry.path):
        found = _undecoded(_load(entry))
        features = found.features or {}
        columns = list(features) if features else list(next(iter(found), {}))
    names = getattr(features.get(entry.answer_column), "names", None)
    reader = RowReader(entry, None if names is None else tuple(names))
    _refuse_missing(entry, reader, columns)
    if entry.streaming:
        needed = {*reader.text_columns, entry.image_column, "id"}
        rows = found.select_columns([name for name in features if name in needed]) if features else found
        return HfStream(rows if entry.limit is None else rows.take(entry.limit), reader, entry)
    with _named(entry.path):
        return _source(found, reader, entry)


class HfStream:
    """Rows of a data set that is never read whole (see `training.data.example.ExampleStream`).

    The order of an epoch is `datasets`' own: its files one after the other in random order, and rows drawn at
    random from a buffer of `shuffle_buffer` that is filled up from them. Seed and epoch decide it.
    """

    def __init__(self, rows: Any, reader: RowReader, entry: HfData) -> None:
        self._rows, self._reader, self._entry = rows, reader, entry

    def rows(self, *, seed: int, epoch: int) -> Iterator[Callable[[], Example]]:
        """See `ExampleStream`.

        Raises:
            ConfigError: when it gets to a file that cannot be read.
        """
        # One file at a time: interleaved ones are read by threads, whose end costs five seconds an epoch.
        size = self._entry.shuffle_buffer
        shuffled = self._rows.shuffle(seed=seed, buffer_size=size, max_buffer_input_shards=1)
        shuffled.set_epoch(epoch)
        with _named(self._entry.path):
            for row in shuffled:
                yield from self._reader.openers(row)


def _source(found: Any, reader: RowReader, entry: HfData) -> ItemSource[int]:
    items: list[Item[int]] = []
    faults: list[str] = []
    for number, row, has_picture in _scanned(found, reader, entry):
        if entry.limit is not None and len(items) >= entry.limit:
            break
        try:
            items += reader.items(row, number if has_picture else None)
        except ValueError as error:
            faults.append(f"row {number}: {error}")
    items = items[: entry.limit]
    if not items:
        came = f"none whole in {entry.path}"
        refuse(faults or [fault("path", expected="rows", came=came, cure="name another")])
    column = entry.image_column
    pictures = found.select_columns([column]) if any(item.place is not None for item in items) else None

    def open_picture(number: int) -> Image.Image:
        assert pictures is not None, "a place means a picture"
        return reader.picture(pictures[number][column], f"row {number}")

    return ItemSource(items, open_picture, faults)


def _scanned(found: Any, reader: RowReader, entry: HfData) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """Number, texts, and whether there is a picture, of each row; no picture is read."""
    texts, image = reader.text_columns, entry.image_column
    columns = texts if image is None else [*texts, image]
    tables = found.select_columns(columns).with_format("arrow").iter(_SCANNED_AT_ONCE)
    number = 0
    for table in tables:
        rows = table.select(texts).to_pylist()
        shown_in = [False] * len(rows) if image is None else table.column(image).is_valid().to_pylist()
        for row, has_picture in zip(rows, shown_in, strict=True):
            yield number, row, has_picture
            number += 1


def _load(entry: HfData) -> Any:
    """A `Dataset`, or an `IterableDataset` where the entry streams."""
    datasets = _library()
    if (entry.path / _SAVED_SPLITS).is_file() or (entry.path / _SAVED).is_file():
        saved = datasets.load_from_disk(str(entry.path))
        one = _one_split(saved, entry) if isinstance(saved, dict) else saved
        shards = max(1, min(len(one), len(one.cache_files)))
        return one.to_iterable_dataset(num_shards=shards) if entry.streaming else one
    files = _files(entry)
    return datasets.load_dataset(
        _READERS[files[0].suffix],
        data_files=[glob.escape(str(file.resolve())) for file in files],
        split="train",  # what `datasets` calls files of no split
        streaming=entry.streaming,
        cache_dir=None if entry.cache is None else str(entry.cache),
    )


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        expected, came = "the package datasets", "none installed"
        problem = fault("kind", expected=expected, came=came, cure="pip install datasets")
        raise ConfigError("data", [problem]) from error
    return datasets


def _one_split(saved: Mapping[str, Any], entry: HfData) -> Any:
    name = entry.split or (next(iter(saved)) if len(saved) == 1 else "")
    if name not in saved:
        expected = f"one of {', '.join(saved)}"
        refuse([fault("split", expected=expected, came=shown(entry.split), cure="name one of them")])
    return saved[name]


def _files(entry: HfData) -> list[Path]:
    """The file named, or those right in the folder; with `split` the ones whose names begin with it."""
    there = sorted(entry.path.iterdir()) if entry.path.is_dir() else [entry.path]
    files = [file for file in there if file.suffix in _READERS and file.is_file()]
    if entry.split is not None:
        files = [file for file in files if file.name.startswith(entry.split)]
    kinds = sorted({file.suffix for file in files})
    if len({_READERS[kind] for kind in kinds}) != 1:
        of_split = "" if entry.split is None else f" whose names begin with {entry.split}"
        came = f"{' and '.join(kinds) or 'none'}{of_split} in {entry.path}"
        refuse([fault("path", expected=_EXPECTED, came=came, cure="correct the path")])
    return files


def _undecoded(found: Any) -> Any:
    """Pictures as bytes or names; a skipped row costs no decoding."""
    datasets = _library()
    pictures = [name for name, kind in (found.features or {}).items() if isinstance(kind, datasets.Image)]
    for name in pictures:
        found = found.cast_column(name, datasets.Image(decode=False))
    return found


def _refuse_missing(entry: HfData, reader: RowReader, columns: list[str]) -> None:
    wanted = reader.text_columns
    if entry.image_column is not None:
        wanted = [*wanted, entry.image_column]
    cure = f"it has {', '.join(columns) or 'none'} (image_column: null means text alone)"
    refuse(
        [
            fault("data", expected=f"a column {name}", came="none", cure=cure)
            for name in wanted
            if name not in columns
        ]
    )


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What `datasets` and Arrow raise about files, as ours."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        came = f"{path} ({str(error.__cause__ or error)[:200]})"
        problem = fault("path", expected=_EXPECTED, came=came, cure="mend it, or name another")
        raise ConfigError("data", [problem]) from error
