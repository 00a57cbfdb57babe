"""Tasks and their versions as the tasks API tells of them, and its filters."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from prompts.bundle import Bundle
from prompts.errors import InputError
from prompts.faults import fault, shown
from prompts.routing import Share
from server.served import Loader, ServedTask

__all__ = ["FILTERS", "describe", "describe_version", "keep_asked"]

_PROVENANCE = ("method", "seed", "libraries", "commit", "created")
"""What is told of a bundle's making. Its data and config may name paths of the machine that trained it."""
FILTERS = ("method", "on_device", "q", "prefix")
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def describe(task: ServedTask, serving: Iterable[tuple[ServedTask, int]]) -> dict[str, Any]:
    """A task as its first version: bundle fields, digest, residency, traffic, canary; no path."""
    shares = list(serving)
    total = sum(weight for _, weight in shares) or 1
    described: dict[str, Any] = {"id": task.name, "object": "task", "digest": task.digest}
    described["on_device"] = task.loader.is_on_device(task.digest)
    described["traffic"] = [
        {
            "digest": one.digest,
            "version": one.bundle.version,
            "weight": weight,
            "share": round(weight / total, 6),
        }
        for one, weight in shares
    ]
    described["canary"] = _canary(task.bundle, task.loader)
    manifest = task.bundle.manifest.model_dump(mode="json")
    provenance = manifest.pop("provenance")
    described |= manifest
    described["provenance"] = {key: provenance[key] for key in _PROVENANCE}
    return described


def describe_version(bundle: Bundle, shares: Iterable[Share], loader: Loader | None) -> dict[str, Any]:
    """One installed version, and the weight that it is to have; 0: it waits."""
    weight = next((one.weight for one in shares if one.digest == bundle.digest), 0)
    return {
        "object": "task.version",
        "digest": bundle.digest,
        "version": bundle.version,
        "description": bundle.manifest.description,
        "weight": weight,
        "on_device": loader is not None and loader.is_on_device(bundle.digest),
        "canary": _canary(bundle, loader),
        "metrics": bundle.manifest.model_dump(mode="json")["metrics"],
        "size_bytes": bundle.size_bytes,
    }


def keep_asked(tasks: Iterable[ServedTask], query: Mapping[str, str]) -> list[ServedTask]:
    """The tasks that fit every filter: `method` (of training), `on_device` (true, false), `prefix` of the
    name, `q` somewhere in name or description, case aside.

    Raises:
        InputError: a filter that there is none of, or an `on_device` that is neither.
    """
    faults = [
        fault(
            shown(key), expected=f"one of {', '.join(FILTERS)}", came="another", cure="correct its spelling"
        )
        for key in query
        if key not in FILTERS
    ]
    if "on_device" in query and query["on_device"].lower() not in _TRUTH:
        came, cure = shown(query["on_device"]), "correct the word"
        faults.append(fault("on_device", expected="true or false", came=came, cure=cure))
    if faults:
        raise InputError("; ".join(faults))
    return [task for task in tasks if _fits(task, query)]


def _fits(task: ServedTask, query: Mapping[str, str]) -> bool:
    manifest = task.bundle.manifest
    if "method" in query and manifest.provenance.method != query["method"]:
        return False
    if "on_device" in query and task.loader.is_on_device(task.digest) != _TRUTH[query["on_device"].lower()]:
        return False
    wanted = query.get("q", "").casefold()
    text = f"{task.name}\n{manifest.description or ''}".casefold()
    return task.name.startswith(query.get("prefix", "")) and wanted in text


def _canary(bundle: Bundle, loader: Loader | None) -> dict[str, Any] | None:
    if loader is None:
        return None
    said = asdict(loader.canary_result(bundle))
    return {key: value for key, value in said.items() if value is not None}
