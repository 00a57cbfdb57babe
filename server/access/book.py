"""The keys of a running server: found by what a request carries, followed as their file changes."""

import asyncio
import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers

from prompts.errors import ConfigError, InvalidKeyError
from prompts.faults import fault
from server.access.caller import Caller
from server.access.keys import KeyEntry, hash_key, load_keys
from server.access.limits import Account, Clock
from server.log import logger

__all__ = ["KeyBook", "carried_key"]

_HEADERS = ("Authorization", "X-API-Key")
"""OpenAI's and Anthropic's."""
_SCHEME = "bearer"


@dataclass
class KeyBook:
    """`entries` by name become callers; `accounts` count, and stay as the file changes.

    `faults`: why the file as it is now is not followed; the server goes on with what it read before.
    """

    file: Path
    secret: bytes
    clock: Clock
    faults: list[str] = field(default_factory=list)
    _accounts: dict[str, Account] = field(default_factory=dict)
    _callers: list[tuple[str, Caller]] = field(default_factory=list)
    _seen: object = None

    @classmethod
    def read(cls, file: Path, *, secret: bytes, clock: Clock) -> "KeyBook":
        """Read the file for the first time.

        `secret`: what cache salts are derived with; front ends that are to share caches have the same.

        Raises:
            ConfigError: the file is not as it should be.
        """
        book = cls(file, secret, clock)
        book._seen = _signature(file)
        book._follow(load_keys(file))
        return book

    def find(self, key: str) -> Caller:
        """The holder of a key; takes as long whichever it is.

        Raises:
            InvalidKeyError: nobody's.
        """
        given = hash_key(key).encode()
        found: Caller | None = None
        for hashed, caller in self._callers:
            if hmac.compare_digest(given, hashed.encode()):
                found = caller
        if found is None:
            raise InvalidKeyError(
                fault(
                    "Authorization", expected="a key of this server", came="another", cure="ask the operator"
                )
            )
        return found

    def account(self, caller: Caller) -> Account:
        """What a caller has used."""
        return self._accounts[caller.name]

    async def look(self) -> None:
        """Read the file again where it changed; one that is not as it should be changes nothing."""
        signature = await asyncio.to_thread(_signature, self.file)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            entries = await asyncio.to_thread(load_keys, self.file)
        except ConfigError as error:
            self.faults = error.faults
            logger.error("the keys stay as they were: %s", error)
            return
        self._follow(entries)
        logger.info("%d names hold keys now", len(entries))

    def _follow(self, entries: list[KeyEntry]) -> None:
        callers = []
        for entry in entries:
            account = self._accounts.setdefault(entry.name, Account(self.clock))
            account.configure(
                requests=entry.requests_per_minute,
                tokens=entry.tokens_per_minute,
                concurrency=entry.concurrency,
            )
            caller = _caller(entry, account, self.secret)
            callers += [(hashed, caller) for hashed in entry.sha256]
        self._callers, self.faults = callers, []


def carried_key(headers: Headers) -> str | None:
    """The key of a request, None where it has none.

    Raises:
        InvalidKeyError: two that differ, or a header of another form.
    """
    given = {name: headers.getlist(name) for name in _HEADERS}
    keys = {_bearer(value) for value in given["Authorization"]} | set(given["X-API-Key"])
    if len(keys) > 1:
        raise InvalidKeyError(
            fault("Authorization", expected="one key", came="several", cure="send the key in one header")
        )
    return next(iter(keys), None)


def _bearer(value: str) -> str:
    scheme, _, key = value.partition(" ")
    if scheme.lower() != _SCHEME or not key.strip():
        expected, cure = "Bearer KEY", "send `Authorization: Bearer KEY`"
        raise InvalidKeyError(fault("Authorization", expected=expected, came="something else", cure=cure))
    return key.strip()


def _caller(entry: KeyEntry, account: Account, secret: bytes) -> Caller:
    return Caller(
        name=entry.name,
        admin=entry.admin,
        tasks=frozenset(entry.tasks),
        base=entry.base,
        metrics=entry.metrics,
        allow=frozenset(entry.allow),
        cache_salt=_salt(entry, secret),
        spend=account.spend,
    )


def _salt(entry: KeyEntry, secret: bytes) -> str:
    """The same for all names of a group; a name without a group is one by itself."""
    of = f"group\0{entry.cache_group}" if entry.cache_group is not None else f"name\0{entry.name}"
    return hmac.new(secret, of.encode(), sha256).hexdigest()


def _signature(file: Path) -> object:
    """Changes when the file does; a link is followed, as cluster secrets are mounted."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
