"""A job's digest: equal only for two jobs that come to the same result, so that a finished one is not redone.

It covers settings, every file of the models that decides an answer, the data's content, and what is computed
in and where.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import training.pico
from training.backbone import choose_device, choose_dtype
from training.config import M2ptConfig, TvpConfig
from training.data import DataConfig, ExampleSource, MixData, PicoData, make_source
from training.data.items import Item, ItemSource

__all__ = ["computed_in", "data_digest", "digest_of", "frame_digest", "model_digest", "tuning_digest"]

_FORMAT = 1
"""Grows when trainer or measure come to other results from the same settings."""
_FREE = {
    "name",
    "version",
    "description",
    "out",
    "bundle",
    "validation",
    "canary",
    "checkpoint_every",
    "max_broken_share",
}
_ELSEWHERE = {"model", "data", "dtype", "log_every", "tensorboard"}
_MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt"}
_CHUNK = 1 << 20


def digest_of(content: Any) -> str:
    """sha256 of a JSON value, 16 hex digits."""
    text = json.dumps([_FORMAT, content], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_digest(folder: Path) -> str:
    """Of a checkpoint's weights, config, processor, tokenizer and chat template, whole; not of its place."""
    return _model_digest(folder.resolve())


@functools.cache
def _model_digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES)
    return _sha256(part for path in files for part in (path.name.encode(), *_chunks(path)))


@functools.cache
def data_digest(entry: DataConfig) -> str:
    """Of every example: question, answer, choices and picture (of files: path, size and time of change).

    Of pictures that are drawn, of the code that draws them.
    """
    if isinstance(entry, PicoData):
        return digest_of([entry.model_dump(mode="json"), _code_of_pico()])
    if isinstance(entry, MixData):
        mixed = entry.model_dump(mode="json", exclude={"parts": {"__all__": {"data"}}})
        return digest_of([mixed, [data_digest(part.data) for part in entry.parts]])
    source = make_source(entry)
    items = source.items if isinstance(source, ItemSource) else []
    if not items:
        return _sha256(part for index in range(len(source)) for part in _shown(source, index))
    return _sha256(part for index, item in enumerate(items) for part in _identity(source, index, item))


def _identity(source: ExampleSource, index: int, item: Item[Any]) -> Iterator[bytes]:
    if not isinstance(item.place, Path):
        yield from _shown(source, index)
        return
    state = item.place.stat()
    yield repr((str(item.place), state.st_size, state.st_mtime_ns)).encode()
    yield repr((item.question, item.answer, item.choices)).encode()


def _shown(source: ExampleSource, index: int) -> Iterator[bytes]:
    example = source[index]
    if example.picture is not None:
        yield example.picture.convert("RGB").tobytes()
    yield repr((example.question, example.answer, example.choices)).encode()


@functools.cache
def _code_of_pico() -> str:
    folder = Path(training.pico.__file__).parent
    files = [folder / name for name in ("glyphs.py", "scenes.py", "split.json")]
    return _sha256(path.read_bytes() for path in (*files, *sorted(folder.glob("tasks/*.py"))))


def computed_in(dtype: str) -> list[str]:
    """Device type and precision that `dtype` comes to on this machine."""
    device = choose_device("auto")
    return [device.type, str(choose_dtype(dtype, device))]


def frame_digest(config: TvpConfig) -> str:
    """Of a training job."""
    settings = config.model_dump(mode="json", exclude=_FREE | _ELSEWHERE)
    options = settings["tvp"]
    del options["also"], options["clip"]
    models = [model_digest(folder) for folder in (config.model, *config.tvp.also)]
    judge = model_digest(config.tvp.clip) if config.tvp.clip and config.tvp.lambda_tse else None
    return digest_of([settings, models, judge, data_digest(config.data), computed_in(config.dtype)])


def tuning_digest(config: M2ptConfig) -> str:
    """Of an M²PT training, or of a baseline's."""
    settings = config.model_dump(mode="json", exclude=_FREE | _ELSEWHERE)
    model, data = model_digest(config.model), data_digest(config.data)
    return digest_of([type(config).__name__, settings, model, data, computed_in(config.dtype)])


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
