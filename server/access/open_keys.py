"""vLLM's own `--api-key`, where the server has no file of keys.

vLLM's middleware guards what begins with `/v1`, `/v2`, `/inference` and `/cohere`, and leaves `/invocations`,
`/tokenize` or `/pooling` open, which answer the same questions: here the same key is asked for on them.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers

from prompts.errors import InvalidKeyError
from prompts.faults import fault
from server.access.book import carried_key
from server.access.keys import hash_key

__all__ = ["OpenKeys"]


@dataclass(frozen=True)
class OpenKeys:
    """`hashes`: of the keys that users hold; none: everybody is a user."""

    hashes: tuple[str, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[str]) -> "OpenKeys":
        """From the keys as they are on vLLM's command line."""
        return cls(tuple(hash_key(key) for key in keys))

    def require(self, headers: Headers) -> None:
        """Refuse a request without one of them.

        Raises:
            InvalidKeyError: it carries none, or another.
        """
        if not self.hashes:
            return
        given = hash_key(carried_key(headers) or "").encode()
        if not sum([hmac.compare_digest(given, one.encode()) for one in self.hashes]):
            cure = "send `Authorization: Bearer KEY`"
            raise InvalidKeyError(fault("Authorization", expected="the server's key", came="none", cure=cure))
