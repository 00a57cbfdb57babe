"""The store: a folder of bundles, the desired state of a server.

Each sub-folder is one bundle; its task's name comes from the manifest, not from the folder. Hidden folders
and plain files are passed over, so that a bundle being written beside the others is never half seen.
"""

from dataclasses import dataclass, field
from pathlib import Path

from prompts.bundle import Bundle, load_bundle
from prompts.bundle_files import link_leaves
from prompts.errors import BundleError, StoreError
from prompts.faults import fault

__all__ = ["StoreScan", "scan_store"]

_NO_BUNDLES = {"lost+found"}  # a fresh volume's own folder


@dataclass(frozen=True)
class StoreScan:
    """What a store holds. `bundles`: task name -> bundle; `faults`: folder name -> why it is refused."""

    bundles: dict[str, Bundle] = field(default_factory=dict)
    faults: dict[str, BundleError] = field(default_factory=dict)


def scan_store(folder: Path) -> StoreScan:
    """Load every bundle of a store; a bad one is listed and keeps no other from being served.

    Two bundles of one name are both refused: nothing says which is meant.

    Raises:
        StoreError: the folder is missing or cannot be read.
    """
    folder = Path(folder)
    scan = StoreScan()
    loaded: dict[str, list[Bundle]] = {}
    for path in _bundle_folders(folder):
        try:
            _refuse_foreign_link(path, folder)
            bundle = load_bundle(path)
        except BundleError as error:
            scan.faults[path.name] = error
        else:
            loaded.setdefault(bundle.name, []).append(bundle)
    for name, same in loaded.items():
        if len(same) == 1:
            scan.bundles[name] = same[0]
        else:
            scan.faults.update(_doubles(name, same))
    return scan


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
        and (entry.is_dir() or entry.is_symlink())
    ]


def _refuse_foreign_link(path: Path, folder: Path) -> None:
    if link_leaves(path, folder):
        cure = "put the bundle itself there"
        raise BundleError(
            path, [fault("folder", expected="a folder of the store", came="a link that leaves it", cure=cure)]
        )


def _doubles(name: str, same: list[Bundle]) -> dict[str, BundleError]:
    paths = [bundle.path for bundle in same if bundle.path is not None]
    folders = ", ".join(path.name for path in paths)
    found = fault(
        "name", expected="a name of its own", came=f"{name!r} in {folders}", cure="keep or rename one"
    )
    return {path.name: BundleError(path, [found]) for path in paths}
