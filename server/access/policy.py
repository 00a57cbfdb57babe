"""Which route is for whom. A path that is not in `ROUTE_LEVELS` is answered for nobody.

Written for the routes of vLLM 0.32, those of its developer mode included; a test holds the table against the
real app with everything switched on. Decided on the path as it came over the wire: a path that would have to
be decoded or normalised first is none of these (no route here needs it), so nothing can be read in two ways.
"""

from enum import Enum
from http import HTTPMethod

from starlette._utils import get_route_path  # the router's own: any other reading could miss a route
from starlette.types import Scope

__all__ = ["ROUTE_LEVELS", "Level", "canonical_path", "find_level", "needs_store"]


class Level(Enum):
    """Who may ask a route."""

    PUBLIC = "everybody, key or not: probes and the page"
    METRICS = "keys with `metrics`: a scraper holds a key that is good for nothing else"
    USER = "every key; what it may ask there is its own affair"
    ADMIN = "keys with `admin`; nobody where the server has no keys"


_PUBLIC = ("/", "/page/{name:path}", "/health", "/ready", "/ping")
_METRICS = ("/metrics", "/load")
_USER = (
    "/v1/models",
    "/v1/models/{name}",
    "/v1/tasks",
    "/v1/tasks/{name}",
    "/v1/tasks/{name}/preview.png",
    "/v1/tasks/{name}/versions",
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/v1/responses/render",
    "/v1/messages/render",
    "/inference/v1/generate",
    "/cohere/v2/chat/render",
    "/v1/systemone",
    "/generative_scoring",
    "/cohere/v2/chat",
    "/invocations",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/v1/embeddings",
    "/v2/embed",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/realtime",
    "/version",
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/static/{file:path}",
)
_ADMIN = (
    "/v1/tasks/{name}/rollback",
    # Requests of others.
    "/inference/v1/abort_requests",
    "/abort_requests",
    # The model, its weights and adapters.
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/adapters/{adapter_name}",
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    "/weight_info",
    "/weight_checker",
    "/get_world_size",
    # The engine.
    "/collective_rpc",
    "/pause",
    "/resume",
    "/is_paused",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/start_profile",
    "/stop_profile",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/fault_tolerance/apply",
    "/fault_tolerance/status",
    "/server_info",
    "/kv_event_sources",
)

ROUTE_LEVELS: dict[str, Level] = {
    **dict.fromkeys(_PUBLIC, Level.PUBLIC),
    **dict.fromkeys(_METRICS, Level.METRICS),
    **dict.fromkeys(_USER, Level.USER),
    **dict.fromkeys(_ADMIN, Level.ADMIN),
}
"""Route as FastAPI writes it -> who may ask it. `{x}` is one segment, `{x:path}` one or more at the end."""

_STORE = ("/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel")
_TASKS = "/v1/tasks"
_READING = frozenset({HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.OPTIONS})
_PLAIN = {route: level for route, level in ROUTE_LEVELS.items() if "{" not in route}
_PATTERNS = [(route.split("/"), level) for route, level in ROUTE_LEVELS.items() if "{" in route]


def canonical_path(scope: Scope) -> str | None:
    """The path as the router matches it, None where it could be read in more than one way.

    That is: percent signs, anything but printable ASCII, backslashes, empty or dotted segments.
    """
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path", path.encode("utf-8", "surrogateescape"))
    if raw.partition(b"?")[0] != path.encode("utf-8", "surrogateescape"):
        return None
    inner = get_route_path(scope)
    return inner if inner.startswith("/") and _is_plain(inner) else None


def find_level(path: str, method: str | None) -> Level | None:
    """Who may ask a path, None: nobody. `method`: None for a WebSocket. Tasks are changed by admins alone."""
    level = _PLAIN.get(path) or _match(path)
    is_change = method is None or method not in _READING
    if level is Level.USER and is_change and (path == _TASKS or path.startswith(f"{_TASKS}/")):
        return Level.ADMIN
    return level


def needs_store(path: str) -> bool:
    """Whether a path reaches into the responses that vLLM keeps, of whoever asked for them."""
    return any(_fits(route.split("/"), path.split("/")) for route in _STORE)


def _match(path: str) -> Level | None:
    parts = path.split("/")
    return next((level for pattern, level in _PATTERNS if _fits(pattern, parts)), None)


def _fits(pattern: list[str], parts: list[str]) -> bool:
    if pattern[-1].endswith(":path}") and len(parts) > len(pattern):
        parts = [*parts[: len(pattern) - 1], "x"]
    same_length = len(pattern) == len(parts)
    return same_length and all(
        one.startswith("{") or one == part for one, part in zip(pattern, parts, strict=True)
    )


def _is_plain(path: str) -> bool:
    if not path.isascii() or not path.isprintable() or not {"%", "\\", "?", "#", ";", " "}.isdisjoint(path):
        return False
    return path == "/" or all(part not in ("", ".", "..") for part in path.split("/")[1:])
