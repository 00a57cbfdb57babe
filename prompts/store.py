"""The store: a folder of bundles, the desired state of a server that reads it again and again.

Each sub-folder is one bundle; its task's name comes from the manifest, not from the folder. Several of one
name are versions of one task (`prompts.versions`), `routing.json` says which serve. Hidden folders and other
files are passed over, so that a bundle being written beside the others is never half seen.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from prompts.bundle import Bundle, load_bundle
from prompts.bundle_files import link_leaves, read_manifest
from prompts.errors import BundleError, StoreError
from prompts.faults import fault
from prompts.manifest import Manifest
from prompts.routing import ROUTING_FILE, Routing, Share, read_routing
from prompts.versions import Choice, choose, is_waiting

__all__ = [
    "StoreReader",
    "StoreScan",
    "entry_name",
    "folders_by_name",
    "read_manifests",
    "scan_store",
]

_NO_BUNDLES = {"lost+found"}  # a fresh volume's own folder

_Signature = tuple[tuple[object, ...], ...] | None
"""What tells a changed bundle from the same one: place, size, times and inode of its files; None: unknown."""


@dataclass(frozen=True)
class StoreScan:
    """What a store holds. `bundles`: what is to serve; `faults`: folder name -> why it is refused.

    The keys of `bundles` are slots: a task's name, and `name@digest` for what serves beside the first
    (`prompts.versions`). `versions`: task name -> every good bundle of that name; `shares`: task name -> what
    is to serve, () where the task is removed; `undecided`: names that go on as they are.
    """

    bundles: dict[str, Bundle] = field(default_factory=dict)
    faults: dict[str, BundleError] = field(default_factory=dict)
    versions: dict[str, tuple[Bundle, ...]] = field(default_factory=dict)
    shares: dict[str, tuple[Share, ...]] = field(default_factory=dict)
    undecided: set[str] = field(default_factory=set)


class StoreReader:
    """Scans one store repeatedly; a bundle whose files did not change since the last scan is not read again.

    Then the very same `Bundle` is in the scan, so that `is` tells what is new. Of its tensors only the frame
    is kept in memory (`Bundle.outlined`). A faulty one is read again
    each time: what was wrong may lie outside its files (a full file table, a network that was away).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._seen: dict[Path, tuple[_Signature, Bundle | BundleError]] = {}
        self._routing: Routing | None = None  # not read yet
        self._routing_seen: tuple[tuple[int, ...], list[str]] | None = None

    def scan(self) -> StoreScan:
        """Load every bundle of the store; a bad one is listed and keeps no other from being served.

        Two bundles of one name are both refused where nothing says which is meant. A `routing.json` that
        cannot be read is listed, and what it said before holds; where it was never read nothing is to serve,
        as it may speak of any name.

        Raises:
            StoreError: the folder is missing or cannot be read.
        """
        paths = _bundle_folders(self._folder)
        self._seen = {path: self._read(path) for path in paths}
        faults: dict[str, BundleError] = {}
        versions: dict[str, dict[str, Bundle]] = {}
        for path, (_, found) in self._seen.items():
            if isinstance(found, BundleError):
                faults[entry_name(path)] = found
            else:
                same = versions.setdefault(found.name, {})
                if found.digest not in same or is_waiting(same[found.digest].path):
                    same[found.digest] = found
        of_routing = self._follow_routing()
        listed = {name: tuple(each.values()) for name, each in versions.items()}
        undecided = Choice(undecided=set(listed))
        choice = choose(listed, self._routing) if self._routing is not None else undecided
        for doubles in choice.doubles:
            faults |= _doubles(doubles)
        if found_faults := of_routing + choice.faults:
            faults[ROUTING_FILE] = BundleError(self._folder / ROUTING_FILE, found_faults)
        return StoreScan(choice.bundles, faults, listed, choice.shares, choice.undecided)

    def _follow_routing(self) -> list[str]:
        """Reads `routing.json` where it changed; its faults, with which it holds as it was before."""
        signature = _file_signature(self._folder / ROUTING_FILE)
        if self._routing_seen is not None and self._routing_seen[0] == signature:
            return self._routing_seen[1]
        faults: list[str] = []
        try:
            self._routing = read_routing(self._folder)
        except StoreError as error:
            faults.append(str(error))
            if isinstance(error.__cause__, OSError):  # what was wrong may lie outside the file
                signature = None
        if self._routing is None:
            came, cure = "none since the start", "correct it: until then no task is served"
            faults.append(fault(ROUTING_FILE, expected="one that can be read", came=came, cure=cure))
        self._routing_seen = (signature, faults) if signature is not None else None
        return faults

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


def folders_by_name(folder: Path) -> dict[str, list[Path]]:
    """Task name -> folders whose manifest has it; what is faulty is passed over.

    Raises:
        StoreError: the folder is missing or cannot be read.
    """
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


def _file_signature(path: Path) -> tuple[int, ...] | None:
    """None where there is no such file, or nobody can say."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mode, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


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


def _doubles(same: list[Bundle]) -> dict[str, BundleError]:
    paths = [bundle.path for bundle in same if bundle.path is not None]
    folders = ", ".join(entry_name(path) for path in paths)
    name, cure = same[0].name, "keep or rename one, or have one wait: a folder NAME@VERSION"
    found = fault("name", expected="a name of its own", came=f"{name!r} in {folders}", cure=cure)
    return {entry_name(path): BundleError(path, [found]) for path in paths}
