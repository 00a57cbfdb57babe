"""Error texts that are not ours, without what they tell of this machine.

vLLM puts into its errors whatever was raised: reprs of objects, paths of files, addresses of hosts. Clients
get the sentence with those taken out; our own errors (string codes) never have them.
"""

import json
import re
from typing import Any

from server.access.policy import ROUTE_LEVELS

__all__ = ["clean", "clean_error"]

_OBJECT = re.compile(r"<[^<>]*\bat 0x[0-9a-fA-F]+[^<>]*>|\b0x[0-9a-fA-F]{6,}\b")
_HOST = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
_PATH = re.compile(r"(?<![\w/.:<-])(?:file:/{1,3}|~?/)(?:[\w.@+=-]+/)+[\w.@+=-]*")
_ROUTE_STARTS = tuple(sorted({f"/{route.split('/')[1]}/" for route in ROUTE_LEVELS if route.count("/") > 1}))


def clean(text: str) -> str:
    """The text with objects, addresses and paths taken out; the server's own routes stay."""
    text = _HOST.sub("(an address)", _OBJECT.sub("(an object)", text))
    return _PATH.sub(lambda found: found[0] if found[0].startswith(_ROUTE_STARTS) else "(a path)", text)


def clean_error(payload: bytes) -> bytes:
    """An error body with a clean message; the very bytes where there is nothing to take out."""
    try:
        body: Any = json.loads(payload)
        error = body["error"]
        message = error["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return payload
    if not isinstance(message, str) or isinstance(error.get("code"), str):
        return payload
    cleaned = clean(message)
    if cleaned == message:
        return payload
    error["message"] = cleaned
    return json.dumps(body).encode()
