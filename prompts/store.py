"""The store: a folder of bundles, the desired state of a server that reads it again and again.

Each sub-folder is one bundle; its task's name comes from the manifest, not from the folder. Hidden folders
and plain files are passed over, so that a bundle being written beside the others is never half seen.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.bundle_files import link_leaves, read_manifest
from prompts.errors import BundleError, StoreError
from prompts.faults import fault
from prompts.manifest import Manifest

__all__ = [
    "StoreReader",
    "StoreScan",
    "entry_name",
    "find_bundle",
    "put_bundle",
    "read_manifests",
    "scan_store",
]

_NO_BUNDLES = {"lost+found"}  # a fresh volume's own folder

_Signature = tuple[tuple[object, ...], ...] | None
"""What tells a changed bundle from the same one: place, size, times and inode of its files; None: unknown."""


@dataclass(frozen=True)
class StoreScan:
    """What a store holds. `bundles`: task name -> bundle; `faults`: folder name -> why it is refused."""

    bundles: dict[str, Bundle] = field(default_factory=dict)
    faults: dict[str, BundleError] = field(default_factory=dict)


class StoreReader:
    """Scans one store repeatedly; a bundle whose files did not change since the last scan is not read again.

    Then the very same `Bundle` is in the scan, so that `is` tells what is new. Of its tensors only the frame
    is kept in memory (`Bundle.outlined`). A faulty one is read again
    each time: what was wrong may lie outside its files (a full file table, a network that was away).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._seen: dict[Path, tuple[_Signature, Bundle | BundleError]] = {}

    def scan(self) -> StoreScan:
        """Load every bundle of the store; a bad one is listed and keeps no other from being served.

        Two bundles of one name are both refused: nothing says which is meant.

        Raises:
            StoreError: the folder is missing or cannot be read.
        """
        paths = _bundle_folders(self._folder)
        self._seen = {path: self._read(path) for path in paths}
        scan = StoreScan()
        loaded: dict[str, list[Bundle]] = {}
        for path, (_, found) in self._seen.items():
            if isinstance(found, BundleError):
                scan.faults[entry_name(path)] = found
            else:
                loaded.setdefault(found.name, []).append(found)
        for name, same in loaded.items():
            if len(same) == 1:
                scan.bundles[name] = same[0]
            else:
                scan.faults.update(_doubles(name, same))
        return scan

    def _read(self, path: Path) -> tuple[_Signature, Bundle | BundleError]:
        signature = _signature(path)  # before reading: what changes meanwhile is read again next time
        known = self._seen.get(path)
        if known is not None and signature is not None and known[0] == signature:
            return known
        try:
            _refuse_foreign_link(path, self._folder)
            return signature, load_bundle(path).outlined()
        except BundleError as error:
            return None, error


def scan_store(folder: Path) -> StoreScan:
    """One scan of a store; see `StoreReader.scan`.

    Raises:
        StoreError: the folder is missing or cannot be read.
    """
    return StoreReader(folder).scan()


def read_manifests(folder: Path) -> list[Manifest]:
    """The manifests of a store's bundles, their tensors unread; what is faulty is passed over.

    Raises:
        StoreError: the folder is missing or cannot be read.
    """
    return [manifest for _, manifest in _read_manifests(folder)]


def find_bundle(folder: Path, name: str) -> Bundle:
    """The bundle of the store whose task has that name.

    Raises:
        StoreError: the folder is missing or cannot be read, or not one bundle of it has that name.
        BundleError: the bundle is faulty.
    """
    named = _folders_by_name(folder)
    if len(named.get(name, [])) == 1:
        return load_bundle(named[name][0])
    came = f"two of {name}" if name in named else f"{name}; there are: {', '.join(sorted(named)) or 'none'}"
    raise StoreError(fault("name", expected=f"one task of {folder}", came=came, cure="correct the name"))


def put_bundle(folder: Path, bundle: Bundle, name: str) -> Bundle:
    """Copies a bundle into the store under that task name, in the place of the one that has it.

    A server that follows the store never sees it half written.

    Raises:
        StoreError: the store cannot be read, or two of its bundles have that name.
        BundleError: the place is taken by something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = _folders_by_name(folder).get(name) or [folder / name]
    if len(places) > 1:
        came, cure = ", ".join(one.name for one in places), "remove one of them"
        raise StoreError(fault(name, expected="one folder with that name", came=came, cure=cure))
    manifest = bundle.manifest.model_copy(update={"name": name})
    return save_bundle(places[0], manifest, bundle.tensors, bundle.canary)


def _folders_by_name(folder: Path) -> dict[str, list[Path]]:
    """Task name -> folders whose manifest has it."""
    found: dict[str, list[Path]] = {}
    for path, manifest in _read_manifests(folder):
        found.setdefault(manifest.name, []).append(path)
    return found


def _read_manifests(folder: Path) -> list[tuple[Path, Manifest]]:
    """Each folder with its manifest; those without a readable one are passed over."""
    within = [path for path in _bundle_folders(folder) if not link_leaves(path, folder)]
    return [(path, manifest) for path in within if (manifest := read_manifest(path)) is not None]


def entry_name(path: Path) -> str:
    """A folder's name as text that any encoding takes."""
    return path.name.encode("utf-8", "backslashreplace").decode("utf-8")


def _signature(path: Path) -> _Signature:
    try:
        lines: list[tuple[object, ...]] = [(os.path.realpath(path),)]
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                about = entry.stat()
                times = about.st_mtime_ns, about.st_ctime_ns
                lines.append((entry.name, about.st_mode, about.st_ino, about.st_size, *times))
    except OSError:
        return None
    return tuple(lines)


def _bundle_folders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        came = error.strerror or type(error).__name__
        cure = "create the folder or correct the path"
        raise StoreError(fault("tasks", expected="a folder of bundles", came=came, cure=cure)) from error
    return [
        entry
        for entry in entries
        if not entry.name.startswith(".")
        and entry.name not in _NO_BUNDLES
        and (entry.is_symlink() or _is_folder(entry))
    ]


def _is_folder(entry: Path) -> bool:
    """False too where nobody can say: one odd entry keeps no bundle from being served."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _refuse_foreign_link(path: Path, folder: Path) -> None:
    if link_leaves(path, folder):
        cure = "put the bundle itself there"
        raise BundleError(
            path, [fault("folder", expected="a folder of the store", came="a link that leaves it", cure=cure)]
        )


def _doubles(name: str, same: list[Bundle]) -> dict[str, BundleError]:
    paths = [bundle.path for bundle in same if bundle.path is not None]
    folders = ", ".join(entry_name(path) for path in paths)
    found = fault(
        "name", expected="a name of its own", came=f"{name!r} in {folders}", cure="keep or rename one"
    )
    return {entry_name(path): BundleError(path, [found]) for path in paths}
