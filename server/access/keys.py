"""The file of `--keys`: who holds a key, and what it is good for. Read strictly, every fault at once.

    keys:
      - name: team-a
        sha256: 6f0c…                 # of the key; two of them while a key is being exchanged
        tasks: [category, digits]     # or ["*"]
        requests_per_minute: 60

Keys are random (`passepartout key new NAME`), so a plain hash of them gives nothing away. No key stands in
the file.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from prompts.errors import ConfigError
from prompts.faults import fault, validation_faults
from prompts.manifest import Name
from server.access.caller import ALL_TASKS

__all__ = ["KeyEntry", "KeysFile", "hash_key", "load_keys", "new_key"]

_PREFIX = "pp-"
_KEY_BYTES = 32

KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Allowance = Literal["cache_salt", "chat_template", "uuid", "kv_transfer", "priority", "stored_responses"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KeyEntry(_Strict):
    """One name and what it may do; what is left out it may not.

    `sha256`: of the key, one or two; `tasks`: names, or `*`; `base`: requests without a task; `admin`:
    everything; `metrics`: `/metrics` and `/load`. Limits count in each front end, None: no limit;
    `concurrency`: requests at a time. `cache_group`: names of the same group share vLLM's prefix cache
    (None: with nobody); `allow`: fields of requests that are refused otherwise (`server.access.fields`).
    """

    name: KeyName
    sha256: Annotated[list[Sha256], BeforeValidator(_as_list), Field(min_length=1, max_length=2)]
    admin: bool = False
    tasks: list[Name | Literal["*"]] = []
    base: bool = False
    metrics: bool = False
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    cache_group: KeyName | None = None
    allow: list[Allowance] = []


class KeysFile(_Strict):
    """All of the file."""

    keys: Annotated[list[KeyEntry], Field(min_length=1)]


def load_keys(file: Path) -> list[KeyEntry]:
    """Read a file of keys.

    Raises:
        ConfigError: it cannot be read or is not as it should be; every fault is listed.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        came, cure = error.strerror or type(error).__name__, "correct the path or the file's permissions"
        raise ConfigError(file.name, [fault("--keys", expected="a file", came=came, cure=cure)]) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        came = " ".join(str(getattr(error, "problem", None) or type(error).__name__).split())
        raise ConfigError(
            file.name, [fault("--keys", expected="YAML", came=came, cure="correct the file")]
        ) from error
    try:
        entries = KeysFile.model_validate(raw).keys
    except ValidationError as error:
        raise ConfigError(file.name, validation_faults(error)) from error
    if faults := _common_faults(entries):
        raise ConfigError(file.name, faults)
    return entries


def new_key() -> str:
    """A fresh key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def hash_key(key: str) -> str:
    """The hash of a key as the file has it, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _common_faults(entries: list[KeyEntry]) -> list[str]:
    """What no entry shows by itself."""
    faults = []
    for name, count in Counter(one.name for one in entries).items():
        if count > 1:
            cure = "a name has one entry (and two hashes while its key is exchanged)"
            faults.append(
                fault("keys.name", expected="each name once", came=f"{name} {count} times", cure=cure)
            )
    for hashed, count in Counter(one for entry in entries for one in entry.sha256).items():
        if count > 1:
            names = ", ".join(entry.name for entry in entries if hashed in entry.sha256)
            cure = "give each name a key of its own: passepartout key new NAME"
            faults.append(fault("keys.sha256", expected="each hash once", came=f"one of {names}", cure=cure))
    for entry in entries:
        if ALL_TASKS in entry.tasks and len(entry.tasks) > 1:
            came, cure = "names beside it", "leave the names out, or the *"
            faults.append(fault(f"keys.{entry.name}.tasks", expected="* alone", came=came, cure=cure))
    return faults


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader takes the last of two equal keys without a word: here they are a fault."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [str(name) for name, count in Counter(map(str, names)).items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
