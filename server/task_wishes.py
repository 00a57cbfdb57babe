"""What an admin wishes of a task, made out against the versions that are installed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, model_validator

from prompts.bundle import Bundle
from prompts.errors import InputError, TaskNotFoundError, VersionNotFoundError
from prompts.faults import fault, in_one_line, shown, validation_faults
from prompts.manifest import Part
from prompts.routing import MAX_WEIGHT, Share, read_routing
from server.service import Service

__all__ = ["Wish", "etag_of", "previous_shares", "read_wish", "wanted_shares", "wished_shares"]

_LEAST_PREFIX = 6  # the message of `_said` has it in words
_WORD_LENGTH = 64

Word = Annotated[str, StringConstraints(min_length=1, max_length=_WORD_LENGTH)]


class Wish(Part):
    """The body of a PUT: one version by its label or by its digest, or several with their weights."""

    version: Word | None = None
    digest: Word | None = None
    traffic: (
        Annotated[dict[Word, Annotated[int, Field(ge=0, le=MAX_WEIGHT)]], Field(min_length=1, max_length=16)]
        | None
    ) = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Wish":
        if sum(one is not None for one in (self.version, self.digest, self.traffic)) > 1:
            raise ValueError("expected version, digest or traffic, came several; send one of them")
        return self


def read_wish(raw: bytes) -> Wish:
    """The body of a PUT; an empty one is an empty wish.

    Raises:
        InputError: it is none; each fault is named.
    """
    try:
        return Wish.model_validate_json(raw.strip() or b"{}")
    except ValidationError as error:
        raise InputError(in_one_line(validation_faults(error, kind="body"))) from error


def etag_of(shares: Sequence[Share]) -> str:
    """What `If-Match` compares: changes with the versions that are to serve, or with their weights."""
    said = json.dumps([[one.digest, one.weight] for one in shares])
    return f'"{hashlib.sha256(said.encode()).hexdigest()[:32]}"'


def wanted_shares(service: Service, name: str) -> tuple[Share, ...]:
    """What is to serve a task, as the store was found last."""
    if name in service.tasks.shares:
        return service.tasks.shares[name]
    return tuple(Share(digest=task.digest, weight=weight) for task, weight in service.tasks.serving(name))


def wished_shares(service: Service, name: str, wish: Wish) -> tuple[Share, ...]:
    """The shares that a wish comes to; those that serve already keep their order, the others come behind.

    Raises:
        TaskNotFoundError: the store has no bundle of that name.
        VersionNotFoundError: what is named is no one version.
    """
    versions = service.tasks.versions.get(name, ())
    if not versions:
        raise TaskNotFoundError(name, service.tasks.named())
    if wish.traffic is None:
        return (Share(digest=_the_version(name, versions, wish).digest),)
    weights: dict[str, int] = {}
    for word, weight in wish.traffic.items():
        digest = _find(name, versions, word, "traffic").digest
        weights[digest] = weights.get(digest, 0) + weight
    if max(weights.values()) > MAX_WEIGHT:  # one version under two words
        expected, cure = f"at most {MAX_WEIGHT} for a version", "name each version once"
        raise InputError(fault("traffic", expected=expected, came="more", cure=cure))
    order = [one.digest for one in wanted_shares(service, name) if one.digest in weights]
    order += [digest for digest in weights if digest not in order]
    shares = tuple(Share(digest=one, weight=weights[one]) for one in order if weights[one])
    if not shares:
        cure = "give one a weight, or DELETE the task"
        raise InputError(fault("traffic", expected="a weight above 0", came="none", cure=cure))
    return shares


def previous_shares(service: Service, folder: Path, name: str) -> tuple[Share, ...]:
    """What served before the last change of a task.

    Raises:
        TaskNotFoundError: the store has no bundle of that name.
        VersionNotFoundError: nothing did, or it is in the store no more.
    """
    versions = service.tasks.versions.get(name, ())
    if not versions:
        raise TaskNotFoundError(name, service.tasks.named())
    route = read_routing(folder).tasks.get(name)
    if route is None or not route.before:
        cure = "name a version: PUT /v1/tasks/{name}"
        raise VersionNotFoundError(fault("rollback", expected="an earlier choice", came="none", cure=cure))
    there = {one.digest for one in versions}
    for one in route.before[-1]:
        if one.digest not in there:
            cure = "install it again, or name another"
            found = fault("rollback", expected=one.digest, came="a store without it", cure=cure)
            raise VersionNotFoundError(found)
    return route.before[-1]


def _the_version(name: str, versions: Sequence[Bundle], wish: Wish) -> Bundle:
    if wish.digest is not None:
        return _find(name, versions, wish.digest, "digest")
    if wish.version is not None:
        return _find(name, versions, wish.version, "version")
    if len(versions) == 1:
        return versions[0]
    raise VersionNotFoundError(_said(name, versions, "nothing", "version"))


def _find(name: str, versions: Sequence[Bundle], word: str, field: str) -> Bundle:
    """The one version of that label (not in `digest`), or whose digest begins so (not in `version`)."""
    labelled = [one for one in versions if one.version == word and field != "digest"]
    is_prefix = field != "version" and len(word) >= _LEAST_PREFIX
    found = labelled or [one for one in versions if is_prefix and one.digest.startswith(word)]
    if len(found) != 1:
        raise VersionNotFoundError(_said(name, versions, shown(word), field))
    return found[0]


def _said(name: str, versions: Sequence[Bundle], came: str, field: str) -> str:
    listed: Mapping[str, str] = {one.digest[:12]: one.version for one in versions}
    expected = ", ".join(f"{label} ({digest})" for digest, label in listed.items())
    cure = f"GET /v1/tasks/{name}/versions lists them; "
    if field == "digest":
        cure += "give six digits or more of the digest of one"
    else:
        cure += "name one by its digest where labels are the same"
    return fault(field, expected=f"one of {expected}", came=came, cure=cure)
