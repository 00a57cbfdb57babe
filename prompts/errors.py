"""Every error of the project, in one tree.

    PassepartoutError
    ├── InputError                    the caller can cure it: a file, an option, a request (HTTP 4xx)
    │   ├── BundleError               a bundle that may not be loaded or saved, with all its faults
    │   ├── StoreError                the folder of bundles itself cannot be read
    │   ├── SourceError               a store elsewhere cannot be reached or read
    │   ├── ConfigError               a config file, a command-line option or an environment variable
    │   ├── PictureError              bytes that are no picture, or a picture too large or too narrow
    │   ├── RecordError               a record of a data set that is no example
    │   ├── PictureRequiredError      the task works on a picture and the request has none
    │   ├── NoFrameError              a frame was asked for of a task that has none
    │   ├── TaskNotFoundError         no task of that name: never answered by the base model
    │   ├── VersionNotFoundError      the task has no such version, or none to go back to
    │   ├── VersionRefusedError       the version cannot be served by this engine
    │   ├── PreconditionError         the task is not as the one who changes it last saw it
    │   ├── ReadOnlyStoreError        the store cannot be written
    │   ├── ModelNotFoundError        no model of that name is listed
    │   ├── TaskConflictError         one request names two different tasks
    │   ├── BaseModelError            a checkpoint folder that cannot be read
    │   ├── BaseModelMismatchError    the bundle was trained for another base model
    │   ├── UnsupportedError          an engine option or model family that prompts do not work with
    │   ├── InvalidKeyError           no API key, or one that is not known
    │   ├── ForbiddenError            the key is known and may not do this
    │   ├── RouteNotFoundError        a path that is none of the server's
    │   ├── RateLimitError            the key asked too much; it may ask again later
    │   ├── TooLargeError             more bytes or more pictures than the server reads
    │   └── TooSlowError              a body that does not come in time
    └── InternalError                 ours to cure (HTTP 5xx)
        ├── OverloadedError           more requests than the server queues; ask again later
        │   └── DrainingError         the server stops; another one, or the next, answers
        ├── CapacityError             no room left for a task's prompts
        └── EngineError               the engine did not do what it was told
            ├── StaleBundleError      the store holds something else in the bundle's place by now
            └── NotStagedError        a worker has no copy of the bundle in host memory

`code` is the stable, machine-readable name of the class. The HTTP status is decided from the class in
`server/errors.py` alone; exceptions of other libraries are translated where they enter, with `from`.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from prompts.faults import fault, shown

__all__ = [
    "BaseModelError",
    "BaseModelMismatchError",
    "BundleError",
    "CapacityError",
    "ConfigError",
    "DrainingError",
    "EngineError",
    "ForbiddenError",
    "InputError",
    "InternalError",
    "InvalidKeyError",
    "ModelNotFoundError",
    "NoFrameError",
    "NotStagedError",
    "OverloadedError",
    "PassepartoutError",
    "PictureError",
    "PictureRequiredError",
    "PreconditionError",
    "RateLimitError",
    "ReadOnlyStoreError",
    "RecordError",
    "RouteNotFoundError",
    "SourceError",
    "StaleBundleError",
    "StoreError",
    "TaskConflictError",
    "TaskNotFoundError",
    "TooLargeError",
    "TooSlowError",
    "UnsupportedError",
    "VersionNotFoundError",
    "VersionRefusedError",
]

_KNOWN_SHOWN = 20
_FAULTS_SHOWN = 50


class PassepartoutError(Exception):
    """Root of the tree. `code` names the kind of error to machines."""

    code: ClassVar[str] = "error"


class InputError(PassepartoutError):
    """Something the caller gave is wrong, and the caller can cure it."""

    code = "invalid_input"


class _FaultsError(InputError):
    """An error that lists every fault found, not the first alone."""

    def __init__(self, heading: str, faults: Sequence[str]) -> None:
        self.heading = heading
        self.faults = list(faults)
        lines = [heading, *(f"  - {one}" for one in self.faults[:_FAULTS_SHOWN])]
        more = len(self.faults) - _FAULTS_SHOWN
        super().__init__("\n".join([*lines, f"  - and {more} more"] if more > 0 else lines))


class BundleError(_FaultsError):
    """A bundle is refused. `path`: its folder; `faults`: each fault as a sentence."""

    code = "bundle_invalid"

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        self.path = Path(path)
        name = self.path.name or self.path.resolve().name
        super().__init__(f"bundle {shown(name)} is refused ({_count(faults)}):", faults)

    def __reduce__(self) -> tuple[type["BundleError"], tuple[Path, list[str]]]:
        return type(self), (self.path, self.faults)


class ConfigError(_FaultsError):
    """A config is refused. `source`: the file or option it came from; `faults`: each fault as a sentence."""

    code = "config_invalid"

    def __init__(self, source: str | Path, faults: Sequence[str]) -> None:
        self.source = str(source)
        super().__init__(f"config {self.source} is refused ({_count(faults)}):", faults)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, list[str]]]:
        return type(self), (self.source, self.faults)


class StoreError(InputError):
    """The folder of bundles cannot be read."""

    code = "store_invalid"


class SourceError(InputError):
    """A store elsewhere (the Hub, an object store) cannot be reached or read."""

    code = "source_unreachable"


class PictureError(InputError):
    """Bytes that are no picture, or a picture outside what is accepted."""

    code = "picture_invalid"


class RecordError(InputError):
    """A record of a data set that is no example, found when it is read."""

    code = "record_invalid"


class PictureRequiredError(InputError):
    """The task named works on a picture, and the request carries none.

    `field`: where it has its text; a `prompt` can carry no picture.
    """

    code = "picture_required"

    def __init__(self, task: str, field: str = "messages") -> None:
        self.task = task
        self.field = field
        cure = "add an image_url part or leave the task out"
        if field == "prompt":
            cure = "ask at /v1/chat/completions with an image_url part, or leave the task out"
        expected = f"at least one picture (task {shown(task)} acts on pictures alone)"
        super().__init__(fault(field, expected=expected, came="text alone", cure=cure))

    def __reduce__(self) -> tuple[type["PictureRequiredError"], tuple[str, str]]:
        return type(self), (self.task, self.field)


class NoFrameError(InputError):
    """A frame was asked for, and the task named has none."""

    code = "task_has_no_frame"

    def __init__(self, task: str) -> None:
        self.task = task
        expected = f"task {shown(task)} to carry a frame"
        cure = "only tasks trained with TVP have a picture to show"
        super().__init__(fault("frame", expected=expected, came="null", cure=cure))

    def __reduce__(self) -> tuple[type["NoFrameError"], tuple[str]]:
        return type(self), (self.task,)


class TaskNotFoundError(InputError):
    """No task of that name is served. `name`: what was asked for; `known`: the names that are served;
    `is_limited`: those of them that the asking key may ask."""

    code = "task_not_found"

    def __init__(self, name: str, known: Collection[str], is_limited: bool = False) -> None:
        self.name = name
        self.known = sorted(known)
        self.is_limited = is_limited
        nothing = "none that this key may ask" if is_limited else "none (no task is loaded)"
        expected = ", ".join(self.known[:_KNOWN_SHOWN]) or nothing
        more = len(self.known) - _KNOWN_SHOWN
        expected += f" and {more} more" if more > 0 else ""
        super().__init__(
            fault("task", expected=f"one of: {expected}", came=shown(name), cure="GET /v1/tasks lists them")
        )

    def __reduce__(self) -> tuple[type["TaskNotFoundError"], tuple[str, list[str], bool]]:
        return type(self), (self.name, self.known, self.is_limited)


class ModelNotFoundError(InputError):
    """No model of that name is listed: neither the base model nor `base:task`."""

    code = "model_not_found"


class TaskConflictError(InputError):
    """One request names different tasks in different places. `named`: place -> task."""

    code = "task_conflict"

    def __init__(self, named: dict[str, str]) -> None:
        self.named = dict(named)
        came = " and ".join(f"{shown(task)} in {place}" for place, task in self.named.items())
        super().__init__(fault("task", expected="one task", came=came, cure="name the task in one place"))

    def __reduce__(self) -> tuple[type["TaskConflictError"], tuple[dict[str, str]]]:
        return type(self), (self.named,)


class VersionNotFoundError(InputError):
    """No one version of a task is meant: none, or more than one, has what was named."""

    code = "version_not_found"


class VersionRefusedError(InputError):
    """A version of a task that this engine cannot serve as it was trained; nothing was changed."""

    code = "version_refused"


class PreconditionError(InputError):
    """The task is not, or is no longer, as `If-Match` says."""

    code = "precondition_failed"


class ReadOnlyStoreError(InputError):
    """The folder of bundles cannot be written by this process."""

    code = "store_read_only"


class BaseModelError(InputError):
    """A checkpoint folder cannot be read as a base model."""

    code = "base_model_invalid"


class BaseModelMismatchError(InputError):
    """The bundle was trained for another base model than the one in use."""

    code = "base_model_mismatch"

    def __init__(self, task: str, *, field: str, expected: str, came: str) -> None:
        self.task, self.field, self.expected, self.came = task, field, expected, came
        super().__init__(
            fault(
                f"task {shown(task)}: {field}",
                expected=f"{expected} (the model in use)",
                came=came,
                cure="serve the model the bundle was trained for, or train the task again on this one",
            )
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _mismatch, (self.task, self.field, self.expected, self.came)


class UnsupportedError(InputError):
    """An engine option, a model family or a combination that learned prompts do not work with."""

    code = "unsupported"


class InvalidKeyError(InputError):
    """A request without an API key, or with one that the server does not know."""

    code = "invalid_api_key"


class ForbiddenError(InputError):
    """The caller is known and may not do this. `field`: the field of the body that is at fault, if any is."""

    code = "forbidden"

    def __init__(self, message: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(message, field)

    def __str__(self) -> str:
        return str(self.args[0])


class RouteNotFoundError(InputError):
    """A path that the server answers for nobody."""

    code = "route_not_found"


class _LaterError(Exception):
    """The same request may do later. `retry_seconds`: when to ask again."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(message, retry_seconds)

    def __str__(self) -> str:
        return str(self.args[0])


class RateLimitError(_LaterError, InputError):
    """The caller has used up what its key may ask for now."""

    code = "rate_limit_exceeded"


class TooLargeError(InputError):
    """A request of more bytes, or with more or larger pictures, than the server reads."""

    code = "request_too_large"


class TooSlowError(InputError):
    """A request whose body did not come in the time that the server waits for one."""

    code = "request_timeout"


class InternalError(PassepartoutError):
    """A fault of ours; the caller can only report it."""

    code = "internal_error"


class OverloadedError(_LaterError, InternalError):
    """As many requests wait as the server lets wait."""

    code = "overloaded"


class DrainingError(OverloadedError):
    """The server is about to stop and answers only what it has begun."""

    code = "draining"


class CapacityError(InternalError):
    """No room is left for a task's prompts on the device."""

    code = "capacity"


class EngineError(InternalError):
    """The engine did not do what it was told."""

    code = "engine_error"


def _count(faults: Sequence[str]) -> str:
    return "1 fault" if len(faults) == 1 else f"{len(faults)} faults"


def _mismatch(task: str, field: str, expected: str, came: str) -> BaseModelMismatchError:
    return BaseModelMismatchError(task, field=field, expected=expected, came=came)


class StaleBundleError(EngineError):
    """A bundle is to be read and is not there any more, or another is: look at the store again."""

    code = "bundle_stale"


class NotStagedError(EngineError):
    """A task is to come to the device and is not in host memory (any more): stage it again."""

    code = "not_staged"
