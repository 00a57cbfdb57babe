"""Fields of requests that reach beyond the one who asks: refused unless the operator allows them.

A key's `allow` names them; `--allow-fields` does on a server without keys, where nobody holds one.

    cache_salt        `cache_salt`: the server salts each key's prompts; one's own divides its part further
    chat_template     `chat_template`, `chat_template_kwargs`: Jinja that the server runs
    uuid              `uuid` of a picture, `features`, `multi_modal_uuids`: names what is cached, of anybody
    kv_transfer       `kv_transfer_params`, `ec_transfer_params`, `kv_hints`: caches of other engines
    priority          `priority`, `session_id`: goes before others
    stored_responses  `previous_response_id`, routes `/v1/responses/{id}`: vLLM does not keep whose they are

Nobody may send `mm_processor_kwargs` (`server.prepare`): pictures are prepared as the tasks were trained.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prompts.errors import ForbiddenError, InputError
from prompts.faults import fault
from server.access.caller import CURRENT_CALLER

__all__ = ["FIELDS", "require_fields", "require_stored_responses"]

FIELDS = {
    "cache_salt": "cache_salt",
    "chat_template": "chat_template",
    "chat_template_kwargs": "chat_template",
    "features": "uuid",
    "multi_modal_uuids": "uuid",
    "kv_transfer_params": "kv_transfer",
    "ec_transfer_params": "kv_transfer",
    "kv_hints": "kv_transfer",
    "priority": "priority",
    "session_id": "priority",
    "previous_response_id": "stored_responses",
}
"""Field -> the word that allows it."""

_PART_FIELD = "uuid"
_FREE = frozenset({"metadata", "response_format", "structured_outputs", "text", "tools"})
"""Fields of a body that hold the client's own words: a `uuid` in them names nothing of ours."""
_CARRIERS = ("sampling_params", "vllm_xargs")
_MAX_DEPTH = 64


def require_fields(body: Mapping[str, Any], *, open_fields: frozenset[str]) -> None:
    """Refuse a body with fields that the current caller may not use; `open_fields`: words for all, where the
    server has no keys.

    Raises:
        ForbiddenError: names the first of them.
        InputError: it is nested deeper than any API's bodies are.
    """
    allowed = _allowed(open_fields)
    for place, given in _objects(body):
        for field, word in FIELDS.items():
            if given.get(field) and word not in allowed:
                raise _refusal(place + field, word)
    if "uuid" not in allowed:
        for name, value in body.items():
            if name not in _FREE and (found := next(_uuids(value, name, 0), None)):
                raise _refusal(found, "uuid")


def require_stored_responses(*, open_fields: frozenset[str]) -> None:
    """Refuse a route that reads what vLLM keeps; `open_fields`: as for `require_fields`.

    Raises:
        ForbiddenError: the current caller may not.
    """
    if "stored_responses" not in _allowed(open_fields):
        raise _refusal("response_id", "stored_responses")


def _allowed(open_fields: frozenset[str]) -> frozenset[str]:
    caller = CURRENT_CALLER.get()
    if caller is None:
        return open_fields
    return frozenset(FIELDS.values()) if caller.admin else caller.allow


def _objects(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The body, and what else in it vLLM reads such fields from."""
    yield "", body
    for name in _CARRIERS:
        if isinstance(inner := body.get(name), Mapping):
            yield f"{name}.", inner
            if isinstance(extra := inner.get("extra_args"), Mapping):
                yield f"{name}.extra_args.", extra


def _uuids(value: object, place: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        field, expected = place.partition("[")[0], f"at most {_MAX_DEPTH} levels of lists and objects"
        raise InputError(fault(field, expected=expected, came="more", cure="send it flat"))
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _uuids(one, f"{place}[{index}]", depth + 1)
    elif isinstance(value, Mapping):
        if isinstance(value.get(_PART_FIELD), str):
            yield f"{place}.{_PART_FIELD}"
        for name, one in value.items():
            yield from _uuids(one, f"{place}.{name}", depth + 1)


def _refusal(field: str, word: str) -> ForbiddenError:
    leave = f"start the server with --allow-fields {word}"
    if CURRENT_CALLER.get() is not None:
        leave = f"add `allow: [{word}]` to the key"
    cure = f"leave it out, or have the operator {leave}"
    return ForbiddenError(fault(field, expected="no such field", came="one", cure=cure), field=field)
