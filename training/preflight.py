"""What can be known before a job starts, found at once: paths that lead somewhere, data in its layout.

Hours of training must not end in a fault that the config showed from the beginning.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.config import EvaluateConfig, M2ptConfig, TrainConfig
from training.data import DataConfig, ExampleSource, ExampleStream, make_source, open_data
from training.data.example import count_without_picture, known_answers, tells_outlines

__all__ = ["Inputs", "checkpoint_faults", "open_evaluation", "open_training"]


@dataclass(frozen=True)
class Inputs:
    """The examples a training job reads."""

    data: ExampleSource | ExampleStream
    validation: ExampleSource | None


def open_training(
    config: TrainConfig,
    *,
    checkpoints: Iterable[tuple[str, Path, Sequence[str]]],
    pictures: bool = False,
) -> Inputs:
    """Opens a training job's data and looks at each path the config names.

    Args:
        checkpoints: field, folder and kinds (see `checkpoint_faults`) of each model the job will load.
        pictures: every example must have a picture.

    Raises:
        ConfigError: with every fault of models, data, validation, run folder and bundle folder.
    """
    faults = _target_faults(config)
    for field, folder, kinds in checkpoints:
        faults += checkpoint_faults(field, folder, *kinds)
    data = _open("data", config.data, faults, max_broken_share=config.max_broken_share)
    validation = None
    if config.validation is not None:
        validation = _measured("validation", config.validation, faults)
    if data is not None:
        faults += [*_answer_faults(config, data), *_length_faults(config, data)]
    for field, source in (("data", data), ("validation", validation)):
        if pictures and source is not None:
            faults += _picture_faults(field, source)
    if faults or data is None:
        raise ConfigError("train", faults)
    return Inputs(data, validation)


def open_evaluation(config: EvaluateConfig) -> ExampleSource:
    """Opens the examples to measure on.

    Raises:
        ConfigError: with every fault of model and data.
    """
    faults = [] if config.model is None else checkpoint_faults("model", config.model)
    source = _measured("data", config.data, faults)
    if faults or source is None:
        raise ConfigError("evaluate", faults)
    return source


def checkpoint_faults(field: str, folder: Path, *kinds: str) -> list[str]:
    """Why `folder` is no checkpoint of a kind (`model_type` of its config.json; none named: any)."""
    expected = "a checkpoint folder" + (f" of type {' or '.join(kinds)}" if kinds else "")
    cure = "`passepartout model build pico-llava` makes one" + (", in its folder clip" * ("clip" in kinds))
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [fault(field, expected=expected, came=f"{folder} without a readable config.json", cure=cure)]
    came = found.get("model_type") if isinstance(found, dict) else None
    is_one = came in kinds if kinds else came is not None
    return [] if is_one else [fault(field, expected=expected, came=f"type {came}", cure=cure)]


def _open(
    field: str, entry: DataConfig, faults: list[str], *, max_broken_share: float
) -> ExampleSource | ExampleStream | None:
    """What a field names; None where there is something wrong with it, which is added to `faults`."""
    try:
        return open_data(entry, max_broken_share=max_broken_share)
    except ConfigError as error:
        faults += [f"{field}: {one}" for one in error.faults]
        return None


def _measured(field: str, entry: DataConfig, faults: list[str]) -> ExampleSource | None:
    """As `_open`, for a measure: all of it whole, and its number known."""
    try:
        return make_source(entry)
    except ConfigError as error:
        faults += [f"{field}: {one}" for one in error.faults]
        return None


def _answer_faults(config: TrainConfig, source: ExampleSource | ExampleStream) -> list[str]:
    """Answers of the data that are none of the choices, where the loss is over them."""
    if config.loss_over != "choices" or isinstance(source, ExampleStream):
        return []
    answers = known_answers(source)
    if answers is None:
        return []
    foreign = sorted(answers - set(config.usage.choices or ()))
    if not foreign:
        return []
    came = f"{len(foreign)} more, the first of them {shown(foreign[0])}"
    cure = "add them to the choices, leave those examples out, or train with loss_over: vocabulary"
    return [fault("data", expected="answers among usage.choices", came=came, cure=cure)]


def _length_faults(config: TrainConfig, source: ExampleSource | ExampleStream) -> list[str]:
    """Why examples cannot be grouped by length, where the config wants that."""
    if not isinstance(config, M2ptConfig) or not config.m2pt.group_by_length:
        return []
    if not isinstance(source, ExampleStream) and tells_outlines(source):
        return []
    came = "a stream" if isinstance(source, ExampleStream) else "data that draws its pictures first"
    expected = "data whose texts can be read without its pictures"
    return [fault("m2pt.group_by_length", expected=expected, came=came, cure="leave it out")]


def _picture_faults(field: str, source: ExampleSource | ExampleStream) -> list[str]:
    """Of a stream nothing is known before it is read."""
    lacking = 0 if isinstance(source, ExampleStream) else count_without_picture(source)
    if not lacking:
        return []
    expected, came = "a picture in every example (TVP is a frame around it)", f"{lacking} without"
    return [fault(field, expected=expected, came=came, cure="leave them out, or train M²PT")]


def _target_faults(config: TrainConfig) -> list[str]:
    faults = []
    if config.out.exists() and not config.out.is_dir():
        faults.append(fault("out", expected="a folder", came=str(config.out), cure="name another place"))
    target = config.bundle_folder
    foreign = target.is_dir() and any(target.iterdir()) and not (target / "bundle.json").is_file()
    if foreign or target.is_file():
        expected = "a new folder or a bundle to replace"
        faults.append(fault("bundle", expected=expected, came=str(target), cure="name another place"))
    return faults
