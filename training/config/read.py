"""From a YAML file to a config, with `--set a.b=value` on top; every fault is reported at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from prompts.errors import ConfigError
from prompts.faults import fault, shown, validation_faults

__all__ = ["read_config"]

Config = TypeVar("Config", bound=BaseModel)


def read_config(kind: type[Config], file: Path, settings: Sequence[str] = ()) -> Config:
    """A config from a YAML file and `key.path=value` settings (values are YAML too).

    Raises:
        ConfigError: with every fault: no such file, not YAML, a setting that is none, fields that do not fit.
    """
    raw, faults = _read_yaml(file)
    is_readable = not faults
    for setting in settings:
        faults += _put(raw, setting)
    try:
        config = kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(file, faults + (validation_faults(error) if is_readable else [])) from error
    if faults:
        raise ConfigError(file, faults)
    return config


def _read_yaml(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The file's mapping, and what is wrong with it."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        came, cure = error.strerror or "none", "correct the path given to --config"
        return {}, [fault("--config", expected="a readable YAML file", came=came, cure=cure)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return {}, [fault("--config", expected="YAML", came=str(error), cure="correct the file")]
    if not isinstance(raw, dict):
        came, cure = type(raw).__name__, "write `key: value` lines"
        return {}, [fault("--config", expected="a mapping", came=came, cure=cure)]
    return raw, []


def _put(raw: dict[str, Any], setting: str) -> list[str]:
    """Puts `part.key=value` into `raw`, or says what is wrong with it."""
    path, equals, text = setting.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        cure = "write --set key=value or --set part.key=value"
        return [fault("--set", expected="KEY=VALUE", came=shown(setting), cure=cure)]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return [fault(f"--set {path}", expected="a YAML value", came=shown(text), cure="quote it")]
    place = raw
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            expected, cure = f"{parent} to have parts", "correct the key"
            return [fault(f"--set {path}", expected=expected, came=shown(inner), cure=cure)]
        place = inner
    place[last] = value
    return []
