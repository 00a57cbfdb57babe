"""Our own options of `passepartout serve`, and the only place of the server that reads the environment.

Options have their defaults here and nowhere else: the command line shows these fields.
"""

import math
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping, MutableMapping
from dataclasses import Field, asdict, dataclass, field, fields
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.picture import MAX_PIXELS
from prompts.remote_files import is_remote
from prompts.store import read_manifests
from server.access.fields import FIELDS
from server.access.keys import load_keys
from server.capacity import plan_capacity
from server.engine.facts import ADDITIONAL_CONFIG_KEY, Capacity
from server.outside.hosts import Host, parse_hosts

__all__ = [
    "CANARY_MODES",
    "LOG_FORMATS",
    "PLUGIN_NAME",
    "ServeConfig",
    "cache_secret",
    "find_api_keys",
    "is_option",
    "set_environment",
]

PLUGIN_NAME = "passepartout"
_SECRET = "PASSEPARTOUT_CACHE_SECRET"
_LEAST_SECRET = 32
_MAY_BE_0 = {"least": 0}
CANARY_MODES = ("refuse", "warn", "off")
LOG_FORMATS = ("text", "json")
_OTLP = "OTEL_EXPORTER_OTLP_"
_HTTP_PATH, _HTTP_PORT = "/v1/traces", 4318
"""Of OTLP over HTTP, as OpenTelemetry's specification has them."""
_ENDPOINT_GROUP = "vllm.endpoint_plugins"
_OTHER_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """`tasks`: the store; where it lies elsewhere, at `source`, the folder it is brought to: `tasks_cache`,
    or one of the user's cache. `tasks_lock`: what may come from there; `source_seconds`: between two looks.
    `max_device_tasks`, `max_host_tasks`: tasks at a time in these tiers.

    `pin_tasks`: names, with commas between, that never leave the device. `text_rows`, `vision_rows`,
    `prefix_rows`: prompt tokens on the device, `projectors`, `lm_heads`: tasks there with one of their
    own; 0: as the store needs.
    `max_picture_pixels`: larger pictures are refused before they are decoded.
    `store_seconds`: between two looks at the store, which is followed while the server runs; 0: never again.
    `canary`: what becomes of a bundle whose canary the engine does not find again: `refuse`, `warn`, or `off`
    (canaries are not asked).
    `keys`: the file of keys (`server.access.keys`); None: the server is open. `allow_fields`: words of
    `server.access.fields`, with commas between, that are then for all. `audit_log`: the file that
    changes of tasks are written to, beside stderr. `max_queued`: requests beyond
    those that the engine runs at a time. `max_body_mb`: a request's body; `max_bodies_mb`: all that
    one process holds. `picture_hosts`: names, with commas
    between, that pictures may be fetched from; `max_pictures` of a request; `max_picture_mb` and
    `picture_seconds` of each that is fetched. `log_format`: `text` or `json`. `drain_seconds`: that requests
    under way have to end once the server is told to stop.
    """

    tasks: Path
    source: str = field(default="", metadata={"is_option": False})
    tasks_cache: Path | None = None
    tasks_lock: Path | None = None
    source_seconds: float = 60.0
    max_device_tasks: int = Capacity.tasks
    max_host_tasks: int = field(default=Capacity.host_tasks, metadata=_MAY_BE_0)
    pin_tasks: str = ""
    text_rows: int = field(default=0, metadata=_MAY_BE_0)
    vision_rows: int = field(default=0, metadata=_MAY_BE_0)
    prefix_rows: int = field(default=0, metadata=_MAY_BE_0)
    projectors: int = field(default=0, metadata=_MAY_BE_0)
    lm_heads: int = field(default=0, metadata=_MAY_BE_0)
    max_picture_pixels: int = MAX_PIXELS
    store_seconds: float = 1.0
    canary: str = "refuse"
    keys: Path | None = None
    allow_fields: str = ""
    audit_log: Path | None = None
    max_queued: int = field(default=512, metadata=_MAY_BE_0)
    max_body_mb: int = 64
    max_bodies_mb: int = 1024
    picture_hosts: str = ""
    max_pictures: int = 32
    max_picture_mb: int = 16
    picture_seconds: int = 10
    log_format: str = "text"
    drain_seconds: int = field(default=25, metadata=_MAY_BE_0)

    def __post_init__(self) -> None:
        faults = [
            fault(
                _option(one.name), expected=f"{least} or more", came=str(value), cure="give a larger number"
            )
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), int)
            and value < (least := one.metadata.get("least", 1))
        ]
        if self.max_bodies_mb < self.max_body_mb:
            expected, came = f"--max-body-mb ({self.max_body_mb}) or more", str(self.max_bodies_mb)
            faults.append(fault("--max-bodies-mb", expected=expected, came=came, cure="give a larger number"))
        if len(self.pinned) >= self.max_device_tasks > 0 and self.pinned:
            came, cure = f"{len(self.pinned)} names", "pin fewer, or raise --max-device-tasks"
            expected = f"fewer than --max-device-tasks ({self.max_device_tasks}): the others need a place too"
            faults.append(fault("--pin-tasks", expected=expected, came=came, cure=cure))
        if not 0 <= self.store_seconds < math.inf:
            came, cure = str(self.store_seconds), "give seconds, or 0 to look once only"
            faults.append(fault("--store-seconds", expected="0 or more", came=came, cure=cure))
        if not 1 <= self.source_seconds < math.inf:
            came, cure = str(self.source_seconds), "give seconds"
            faults.append(fault("--source-seconds", expected="1 or more", came=came, cure=cure))
        for name, words in (("canary", CANARY_MODES), ("log_format", LOG_FORMATS)):
            if (came := getattr(self, name)) not in words:
                expected = " or ".join(words)
                faults.append(fault(_option(name), expected=expected, came=came, cure="correct the word"))
        if not self.tasks.is_dir():
            came = "a file" if self.tasks.exists() else "nothing"
            cure = f"create the folder {self.tasks} or correct the path"
            faults.append(fault("--tasks", expected="a folder of bundles", came=came, cure=cure))
        faults += self._access_faults()
        if faults:
            raise ConfigError("passepartout serve", faults)

    def _access_faults(self) -> list[str]:
        faults = parse_hosts(self.picture_hosts)[1]
        words = sorted(set(FIELDS.values()))
        if unknown := sorted(self.open_fields.difference(words)):
            expected, came = f"of {', '.join(words)}", ", ".join(unknown)
            faults.append(fault("--allow-fields", expected=expected, came=came, cure="correct the word"))
        if self.open_fields and self.keys is not None:
            expected, cure = "no --keys beside it", "write `allow` to the keys that may"
            faults.append(fault("--allow-fields", expected=expected, came="both", cure=cure))
        try:
            if self.keys is not None:
                load_keys(self.keys)
        except ConfigError as error:
            faults += error.faults
        return faults

    @classmethod
    def from_namespace(cls, args: Namespace) -> Self:
        """Read our options out of vLLM's parsed command line.

        Raises:
            ConfigError: they are not there, or hold what they may not; every fault is listed.
        """
        if getattr(args, "tasks", None) is None:
            cure = "start with: passepartout serve --model M --tasks DIR"
            raise ConfigError(
                "passepartout serve",
                [fault("--tasks", expected="a folder of bundles", came="nothing", cure=cure)],
            )
        given = {one.name: getattr(args, one.name) for one in fields(cls) if is_option(one)}
        if is_remote(str(given["tasks"])):
            given |= {"source": given["tasks"], "tasks": _cache_of(given["tasks"], given["tasks_cache"])}
        return cls(**given)

    @property
    def pinned(self) -> frozenset[str]:
        """The names of `pin_tasks`."""
        return frozenset(name for one in self.pin_tasks.split(",") if (name := one.strip()))

    @property
    def open_fields(self) -> frozenset[str]:
        """The words of `allow_fields`."""
        return frozenset(word for one in self.allow_fields.split(",") if (word := one.strip()))

    @property
    def hosts_of_pictures(self) -> list[Host]:
        """The entries of `picture_hosts`."""
        return parse_hosts(self.picture_hosts)[0]

    def additional_config(self, given: Any, *, front_ends: int = 1) -> dict[str, Any]:
        """vLLM's `additional_config` with our capacity in it; `given` is what the user put there.

        `front_ends`: API servers, which share the device in equal parts.

        Raises:
            ConfigError: fewer places on the device than front ends.
            StoreError: the store cannot be read.
        """
        if self.max_device_tasks < front_ends:
            came, cure = str(self.max_device_tasks), "raise it, or start fewer API servers"
            expected = f"at least one for each of {front_ends} API servers"
            raise ConfigError(
                "passepartout serve",
                [fault("--max-device-tasks", expected=expected, came=came, cure=cure)],
            )
        capacity = plan_capacity(
            read_manifests(self.tasks),
            tasks=self.max_device_tasks,
            host_tasks=self.max_host_tasks,
            text_rows=self.text_rows,
            vision_rows=self.vision_rows,
            prefix_rows=self.prefix_rows,
            projectors=self.projectors,
            lm_heads=self.lm_heads,
            front_ends=front_ends,
        )
        return {**dict(given or {}), ADDITIONAL_CONFIG_KEY: asdict(capacity)}


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have every process of this server load our plugins.

    vLLM loads routes only from plugins that `VLLM_PLUGINS` names, and then no other plugin that it does not:
    so where the user named none, those that vLLM would have loaded anyway are named beside ours.
    """
    given = environment.get("VLLM_PLUGINS")
    names = _plugins_loaded_by_default() if given is None else [one for one in given.split(",") if one]
    if not environment.get(_SECRET):
        environment[_SECRET] = secrets.token_hex(32)  # the processes of one server share it
    environment["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*names, PLUGIN_NAME]))


def quiet_offline(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have an engine without a server log warnings alone, to stderr: stdout is the command's own."""
    set_environment(environment)
    environment.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    environment.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def cache_secret(environment: MutableMapping[str, str] = os.environ) -> bytes:
    """What the cache salts of keys are derived with: of this start, unless the operator set one.

    Raises:
        ConfigError: it is short enough to be guessed.
    """
    secret = environment[_SECRET]
    if len(secret) < _LEAST_SECRET:
        came, cure = f"{len(secret)}", "take as many random ones, or leave the variable out"
        expected = f"at least {_LEAST_SECRET} characters"
        raise ConfigError("the environment", [fault(_SECRET, expected=expected, came=came, cure=cure)])
    return secret.encode()


def find_api_keys(given: list[str] | None, environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """The keys that vLLM's own middleware asks for: of `--api-key` as parsed, else of VLLM_API_KEY."""
    return [key for key in (given or [environment.get("VLLM_API_KEY", "")]) if key]


def find_trace_endpoint(given: str | None, environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Where spans go, None: nowhere. `given`: of --otlp-traces-endpoint; else OpenTelemetry's variables say.

    vLLM reads the protocol of one variable alone and takes gRPC otherwise: what the others say, or the
    address shows, is put there.
    """
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or (given is None and environment.get("OTEL_TRACES_EXPORTER") == "none"):
        return None
    general = environment.get(f"{_OTLP}ENDPOINT", "")
    endpoint = given or environment.get(f"{_OTLP}TRACES_ENDPOINT", "")
    if not (endpoint or general):
        return None
    address = urlsplit(endpoint or general)
    is_http = address.path.endswith(_HTTP_PATH) or address.port == _HTTP_PORT
    protocol = environment.get(f"{_OTLP}PROTOCOL") or ("http/protobuf" if is_http else "grpc")
    protocol = environment.setdefault(f"{_OTLP}TRACES_PROTOCOL", protocol)
    environment.setdefault("OTEL_SERVICE_NAME", PLUGIN_NAME)
    if not endpoint:
        endpoint = general if protocol == "grpc" else general.rstrip("/") + _HTTP_PATH
    return endpoint


def has_cache_size(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether the environment already says how large the KV cache on a CPU is."""
    return bool(environment.get("VLLM_CPU_KVCACHE_SPACE"))


def is_option(one: "Field[Any]") -> bool:
    """Whether a field of `ServeConfig` is an option of the command line."""
    return bool(one.metadata.get("is_option", True))


def _cache_of(source: str, given: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that a source is brought to, made where there is none.

    Raises:
        ConfigError: it cannot be made.
    """
    base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = given or base / PLUGIN_NAME / "sources" / sha256(source.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        came, cure = error.strerror or type(error).__name__, "give another folder"
        found = fault("--tasks-cache", expected="a folder to write", came=came, cure=cure)
        raise ConfigError("passepartout serve", [found]) from error
    return folder


def _plugins_loaded_by_default() -> list[str]:
    """Every plugin but those that would open routes of their own, which need the user's word."""
    with_routes = {one.name for one in entry_points(group=_ENDPOINT_GROUP)}
    names = {one.name for group in _OTHER_GROUPS for one in entry_points(group=group)}
    return sorted(names - with_routes)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
