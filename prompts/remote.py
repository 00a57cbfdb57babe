"""Bundles that lie elsewhere: `hf://owner/repo[@revision][/folder]`, `s3://…`, `gs://…`, what fsspec opens.

`Source.sync` brings them into a folder that is itself an ordinary store, each bundle whole or not at all and
only those that changed. `push` writes a bundle's digest beside it first, so that nobody takes one that is
half written; a lock (folder name -> digest) pins what may come. fsspec comes with torch; the packages for S3
and Google's storage are installed by whoever needs them.
"""

import fcntl
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from prompts.bundle import load_bundle, replace_folder
from prompts.bundle_files import MANIFEST_FILE, TENSORS_FILE
from prompts.canary import CANARY_FILE
from prompts.errors import BundleError, SourceError
from prompts.faults import fault
from prompts.remote_files import (
    Progress,
    announced_digest,
    asking,
    copy_at_most,
    digest_file,
    open_remote,
    path_of,
    signature_of,
)
from prompts.remote_lock import Lock
from prompts.remote_routing import RoutingCopy
from prompts.routing import ROUTING_FILE

__all__ = ["Source", "SyncReport"]

_FILES = (MANIFEST_FILE, TENSORS_FILE, CANARY_FILE)
_STATE_FILE = ".source.json"
_LOCK_FILE = ".source.lock"
_MAX_BYTES = 8 << 30


@dataclass
class SyncReport:
    """What one look at a source came to. `bundles`: folder name -> digest of all that are here now; `came`,
    `went`: folders; `refused`: folder -> why what lies at the source is not taken; `unnamed`: folders there
    that the lock does not name, which is no fault."""

    bundles: dict[str, str] = field(default_factory=dict)
    came: list[str] = field(default_factory=list)
    went: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)


class Source:
    """A store elsewhere.

    Raises:
        SourceError: there is no file system for its kind of address; the message says what to install.
    """

    def __init__(self, address: str, *, filesystem: Any = None) -> None:
        self.address = address
        self._refused: dict[str, tuple[object, BundleError]] = {}
        """By folder: what was refused as it lies there, so that it is not fetched at each look."""
        self._fs, self._root = (
            (filesystem, path_of(address)) if filesystem is not None else open_remote(address)
        )
        self._routing = RoutingCopy(self._fs)

    def sync(
        self, folder: Path, *, lock: Lock | None = None, progress: Progress = lambda said: None
    ) -> SyncReport:
        """Bring `folder` to what the source holds; folders of other names in it are left alone.

        A bundle that is faulty, half written, unreadable there or not as `lock` says is refused, and what was
        here stays; but not under a name that `lock` does not have.
        `progress` is told of each bundle that is fetched.

        Raises:
            SourceError: the source cannot be reached; `folder` is as it was.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _LOCK_FILE, "ab") as turn:  # several front ends share one folder
            fcntl.flock(turn, fcntl.LOCK_EX)
            return self._sync(folder, lock, progress)

    def _sync(self, folder: Path, lock: Lock | None, progress: Progress) -> SyncReport:
        known, report = _read_state(folder), SyncReport()
        if lock is not None:  # also where the source is away
            _drop(folder, known.keys() - lock.bundles.keys(), known, report)
        with asking(self.address):
            self._fs.invalidate_cache()
            entries = {PurePosixPath(one["name"]).name: one for one in self._fs.ls(self._root, detail=True)}
        found = self._bundles(entries, report)
        report.bundles |= {one: known[one][1] for one in report.refused.keys() & known.keys()}
        try:
            for name, files in sorted(found.items()):
                self._sync_one(folder, name, files, known, lock, report, progress)
            _drop(folder, known.keys() - found.keys() - report.refused.keys(), known, report)
            with asking(self.address):
                is_file = entries.get(ROUTING_FILE, {}).get("type") == "file"
                self._routing.sync(folder, entries[ROUTING_FILE] if is_file else None, known)
        finally:  # what came before something went wrong is not fetched at each look
            _write_state(folder, known)
        return report

    def _sync_one(
        self,
        folder: Path,
        name: str,
        files: dict[str, dict[str, Any]],
        known: dict[str, list[str]],
        lock: Lock | None,
        report: SyncReport,
        progress: Progress,
    ) -> None:
        wanted = lock.bundles.get(name) if lock is not None else None
        if lock is not None and wanted is None:
            report.unnamed.append(name)
            return
        signature, here = signature_of(files), known.get(name)
        is_here = here is not None and (folder / name).is_dir()
        if here is None or not is_here or here[0] != signature or (wanted or here[1]) != here[1]:
            try:
                digest = self._fetch(folder, name, files, wanted, progress)
            except (BundleError, SourceError) as error:
                report.refused[name] = list(error.faults) if isinstance(error, BundleError) else [str(error)]
                if is_here and here is not None:
                    report.bundles[name] = here[1]
                return
            known[name] = here = [signature, digest]
            report.came.append(name)
        report.bundles[name] = here[1]

    def _fetch(
        self,
        folder: Path,
        name: str,
        files: dict[str, dict[str, Any]],
        wanted: str | None,
        progress: Progress,
    ) -> str:
        """Downloads a bundle beside its place, looks at it, and moves it there; returns its digest."""
        with asking(self.address):
            announced = self._announced(name)
        seen = signature_of(files), announced, wanted
        if name in self._refused and self._refused[name][0] == seen:
            raise self._refused[name][1]
        draft = folder / f".{name}.{secrets.token_hex(4)}.new"
        try:
            self._download(draft, files, progress)
            digest = load_bundle(draft).digest
            _require_digest(folder / name, digest, lock=wanted, source=announced)
            replace_folder(draft, folder / name)
        except BundleError as error:
            self._refused[name] = seen, BundleError(folder / name, error.faults)
            raise
        except OSError as error:  # of this machine, and no other bundle's affair
            came, cure = error.strerror or type(error).__name__, "give it a shorter name, or make room"
            found = fault("folder", expected="a place for it here", came=came, cure=cure)
            raise BundleError(folder / name, [found]) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return digest

    def _download(self, draft: Path, files: Mapping[str, Mapping[str, Any]], progress: Progress) -> None:
        size = sum(int(one.get("size") or 0) for one in files.values())
        _require_small(draft, size)
        progress(f"{draft.name[1:].rsplit('.', 2)[0]}: {size:,} bytes")
        draft.mkdir()
        came = 0  # which may be more than the listing said
        with asking(self.address):
            for file, info in files.items():
                came += copy_at_most(self._fs, info["name"], draft / file, _MAX_BYTES + 1 - came)
                _require_small(draft, came)

    def _bundles(
        self, entries: Mapping[str, Mapping[str, Any]], report: SyncReport
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Folder name -> file name -> what the file system tells of it; what it cannot list is refused."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, entry in entries.items():
            is_well_named = name.isprintable() and not name.startswith(".")
            if entry["type"] != "directory" or not is_well_named or name in ("", ROUTING_FILE):
                continue
            try:
                with asking(self.address):
                    inside = self._fs.ls(entry["name"], detail=True)
            except SourceError as error:
                report.refused[name] = [str(error)]
                continue
            files = {PurePosixPath(one["name"]).name: one for one in inside if one["type"] == "file"}
            if MANIFEST_FILE in files:
                found[name] = {file: files[file] for file in _FILES if file in files}
        return found

    def _announced(self, name: str) -> str | None:
        return announced_digest(self._fs, f"{self._root}/{digest_file(name)}")


def _drop(folder: Path, names: set[str], known: dict[str, list[str]], report: SyncReport) -> None:
    """Takes out what came from the source and is not to be here any more."""
    for name in sorted(names - {ROUTING_FILE}):
        shutil.rmtree(folder / name, ignore_errors=True)
        known.pop(name)
        report.went.append(name)


def _require_small(draft: Path, size: int) -> None:
    if size > _MAX_BYTES:
        expected, cure = f"at most {_MAX_BYTES:,} bytes", "take it out of the source"
        raise BundleError(draft, [fault("files", expected=expected, came="more", cure=cure)])


def _require_digest(path: Path, digest: str, **places: str | None) -> None:
    for place, expected in places.items():
        if expected is not None and expected != digest:
            cure = "it is being written, or is not what was meant: look again later"
            raise BundleError(path, [fault(f"digest ({place})", expected=expected, came=digest, cure=cure)])


def _read_state(folder: Path) -> dict[str, list[str]]:
    """Folder name -> signature and digest of what was fetched; nothing where nobody knows."""
    try:
        raw = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    listed = raw.items() if isinstance(raw, dict) else ()
    return {name: one for name, one in listed if isinstance(one, list) and len(one) == 2}


def _write_state(folder: Path, state: dict[str, list[str]]) -> None:
    draft = folder / f"{_STATE_FILE}.new"
    draft.write_text(json.dumps(state, indent=1), encoding="utf-8")
    draft.replace(folder / _STATE_FILE)
