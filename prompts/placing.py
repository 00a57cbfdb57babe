"""Puts bundles into a store and finds them there, by the names of their tasks."""

from pathlib import Path

from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.errors import BundleError, StoreError
from prompts.faults import fault
from prompts.routing import Route, Share, change_route, read_routing
from prompts.store import folders_by_name
from prompts.versions import choose, is_waiting, waiting_folder

__all__ = ["find_bundle", "put_bundle"]


def find_bundle(folder: Path, name: str) -> Bundle:
    """The bundle of the store that serves the task of that name, of several the first.

    Raises:
        StoreError: the folder is missing or cannot be read, or not one bundle of it serves that name.
        BundleError: a bundle of that name is faulty.
    """
    named = folders_by_name(folder)
    versions = [load_bundle(path) for path in named.get(name, [])]
    found = choose({name: versions}, read_routing(folder)).bundles
    if found:
        return next(iter(found.values()))
    came = (
        f"two of {name}" if len(versions) > 1 else f"{name}; there are: {', '.join(sorted(named)) or 'none'}"
    )
    raise StoreError(fault("name", expected=f"one task of {folder}", came=came, cure="correct the name"))


def put_bundle(folder: Path, bundle: Bundle, name: str, *, beside: bool = False) -> Bundle:
    """Copies a bundle into the store under that task name, in the place of the one that has it.

    The new one has the traffic that the old one had; a removed task is served again. `beside`: as a version
    that waits until it is activated. A server that follows the store never sees a bundle half written.

    Raises:
        StoreError: the store cannot be read, or two of its bundles have that name and do not wait.
        BundleError: the place is taken by something else.
        ReadOnlyStoreError: the store cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = bundle.manifest.model_copy(update={"name": name})
    if beside:
        place = folder / waiting_folder(name, bundle.digest)
        return save_bundle(place, manifest, bundle.tensors, bundle.canary)
    found = [path for path in folders_by_name(folder).get(name, []) if not is_waiting(path)]
    places = found or [folder / name]
    if len(places) > 1:
        came, cure = ", ".join(one.name for one in places), "remove one of them"
        raise StoreError(fault(name, expected="one folder with that name", came=came, cure=cure))
    old = _digest_of(places[0])
    placed = save_bundle(places[0], manifest, bundle.tensors, bundle.canary)
    if name in read_routing(folder).tasks:
        change_route(folder, name, lambda route: _exchanged(route, old, placed.digest))
    return placed


def _digest_of(path: Path) -> str | None:
    try:
        return load_bundle(path).digest
    except BundleError:
        return None


def _exchanged(route: Route | None, old: str | None, new: str) -> Route | None:
    """The route with the new digest where the old one was; none where the task was removed."""
    if route is None or not route.shares:
        return None
    kept = [one for one in route.shares if one.digest != new]
    shares = tuple(Share(digest=new, weight=one.weight) if one.digest == old else one for one in kept)
    return route if old == new or shares == route.shares else route.turned_to(shares)
