"""Which of vLLM's routes take a task, and what shape of body each has.

Written for the routes of vLLM 0.32. A test on the real server holds these tables against its OpenAPI
document, so that a route that a new vLLM adds is not left out unseen: a task asked for there would be passed
over in silence.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["ROUTES", "WITHOUT_TASK", "Route", "Shape", "find_route"]


class Shape(Enum):
    """Where a body keeps what the user said."""

    CHAT = "messages, as OpenAI's chat completions"
    BATCH = "messages is a list of conversations"
    TEXT = "prompt, as OpenAI's completions"
    RESPONSES = "input and instructions, as OpenAI's responses"
    ANTHROPIC = "messages and system, as Anthropic's messages"


@dataclass(frozen=True)
class Route:
    """`shape` is None where a task is refused. `generates`: the engine writes tokens, metrics are kept."""

    shape: Shape | None
    generates: bool = True


_REFUSED = Route(None)

ROUTES: dict[str, Route] = {
    "/v1/chat/completions": Route(Shape.CHAT),
    "/v1/chat/completions/batch": Route(Shape.BATCH),
    "/v1/completions": Route(Shape.TEXT),
    "/v1/responses": Route(Shape.RESPONSES),
    "/v1/messages": Route(Shape.ANTHROPIC),
    "/v1/messages/count_tokens": Route(Shape.ANTHROPIC, generates=False),
    "/tokenize": Route(Shape.CHAT, generates=False),
    "/invocations": Route(Shape.CHAT),
    # These take or give tokens past the place where a task enters, or ask in a shape of their own.
    "/inference/v1/generate": _REFUSED,
    "/v1/chat/completions/render": _REFUSED,
    "/v1/completions/render": _REFUSED,
    "/v1/responses/render": _REFUSED,
    "/v1/messages/render": _REFUSED,
    "/v1/systemone": _REFUSED,
    "/generative_scoring": _REFUSED,
    "/cohere/v2/chat": _REFUSED,
    "/cohere/v2/chat/render": _REFUSED,
}

WITHOUT_TASK = frozenset(
    {
        "/abort_requests",
        "/classify",
        "/detokenize",
        "/fault_tolerance/apply",
        "/inference/v1/abort_requests",
        "/is_scaling_elastic_ep",
        "/ping",
        "/pooling",
        "/rerank",
        "/scale_elastic_ep",
        "/score",
        "/start_profile",
        "/stop_profile",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/chat/completions/derender",
        "/v1/completions/derender",
        "/v1/embeddings",
        "/v1/load_lora_adapter",
        "/v1/rerank",
        "/v1/responses/{response_id}/cancel",
        "/v1/score",
        "/v1/tasks/{name}/rollback",
        "/v1/unload_lora_adapter",
        "/v2/embed",
        "/v2/rerank",
    }
)
"""POST routes that no task applies to: they pass untouched (some have a `task` of their own)."""


_PROMPTS = ("prompt", "prompt_embeds")


def find_route(path: str, body: dict[str, Any]) -> Route | None:
    """The route of a path, its shape settled by the body where the path does not say; None: untouched."""
    route = ROUTES.get(path)
    if path in ("/invocations", "/tokenize") and route is not None and body.get("messages") is None:
        has_prompt = any(body.get(field) is not None for field in _PROMPTS)
        return Route(Shape.TEXT, generates=route.generates) if has_prompt else None
    return route
