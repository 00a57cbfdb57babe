"""File systems elsewhere, as fsspec opens them: addresses, their errors, and a bundle copied there."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from prompts.bundle import load_bundle
from prompts.bundle_files import MANIFEST_FILE, TENSORS_FILE
from prompts.canary import CANARY_FILE
from prompts.errors import BundleError, SourceError
from prompts.faults import fault, shown
from prompts.versions import waiting_folder

__all__ = [
    "Progress",
    "announced_digest",
    "asking",
    "copy_at_most",
    "digest_file",
    "is_remote",
    "open_remote",
    "path_of",
    "push_bundle",
    "signature_of",
    "too_large",
]

_CURES = {
    "s3": "pip install 'passepartout-serve[s3]'",
    "gs": "pip install 'passepartout-serve[gcs]'",
    "gcs": "pip install 'passepartout-serve[gcs]'",
}
_MAX_DIGEST_BYTES = 4096
_CHUNK = 1 << 20
_MARKS = ("ETag", "etag", "md5Hash", "blob_id", "last_commit", "LastModified", "mtime", "created", "ino")
"""What the backends of fsspec tell of a file that changes with its content."""
Progress = Callable[[str], None]


def is_remote(location: str) -> bool:
    """Whether a store's location is an address, and no folder of this machine."""
    return "://" in location


def push_bundle(
    path: Path,
    target: str,
    *,
    beside: bool = False,
    progress: Progress = lambda said: None,
    filesystem: Any = None,
) -> str:
    """Copies a bundle to `target`, a store elsewhere, into a folder of its task's name; returns that.

    `beside`: into a folder of its own, as a version that waits until it is activated. `progress` is told of
    each file, and of another version that was there.

    Raises:
        BundleError: the bundle is faulty.
        SourceError: the target cannot be reached or written.
    """
    bundle = load_bundle(path)
    fs, root = (filesystem, path_of(target)) if filesystem is not None else open_remote(target)
    folder = waiting_folder(bundle.name, bundle.digest) if beside else bundle.name
    place, note = f"{root}/{folder}", f"{root}/{digest_file(folder)}"
    with asking(target):
        fs.makedirs(place, exist_ok=True)
        old = announced_digest(fs, note)
        if old not in (None, bundle.digest) or (old is None and fs.exists(f"{place}/{MANIFEST_FILE}")):
            progress(f"{folder}: replaces {f'the version {old}' if old else 'what was there'}")
        fs.pipe_file(note, f"{bundle.digest}\n".encode())
        for name in (TENSORS_FILE, CANARY_FILE, MANIFEST_FILE):
            if (path / name).is_file():
                progress(f"{name}: {(path / name).stat().st_size:,} bytes")
                fs.put_file(str(path / name), f"{place}/{name}")
            elif fs.exists(f"{place}/{name}"):
                fs.rm_file(f"{place}/{name}")
    return f"{target.rstrip('/')}/{folder}"


def open_remote(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        SourceError: there is none for that kind of address; the message says what to install.
    """
    import fsspec  # only who has a source elsewhere waits for it

    kind = address.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        cure = _CURES.get(kind, "use hf://, s3:// or gs://, or a folder")
        found = fault(shown(address), expected="an address that can be opened", came=f"{kind}://", cure=cure)
        raise SourceError(found) from error
    return fs, str(root).rstrip("/")


def path_of(address: str) -> str:
    """An address without its kind."""
    return address.partition("://")[2].rstrip("/")


@contextmanager
def asking(address: str) -> Iterator[None]:
    """Says of whatever goes wrong inside that the address cannot be asked.

    Every file system has errors of its own kind; ours, cancellation and lack of memory pass.

    Raises:
        SourceError: something went wrong.
    """
    try:
        yield
    except (BundleError, SourceError, MemoryError):
        raise
    except Exception as error:
        cure = "look whether it is there, and whether this machine may ask it"
        came = f"{type(error).__name__}: {error}"
        raise SourceError(fault(shown(address), expected="an answer", came=came, cure=cure)) from error


def digest_file(name: str) -> str:
    """Where a bundle's digest is told, beside its folder: hidden, so that no store takes it for a bundle."""
    return f".{name}.digest"


def announced_digest(fs: Any, place: str) -> str | None:
    """The digest that stands beside a bundle, where one does.

    Raises:
        BundleError: the file is no digest's.
    """
    try:
        about = fs.info(place)
    except FileNotFoundError:
        return None
    if found := too_large(place, about, _MAX_DIGEST_BYTES):
        raise BundleError(Path(PurePosixPath(place).name), [found])
    with fs.open(place, "rb") as file:
        return bytes(file.read(_MAX_DIGEST_BYTES)).decode("ascii", "replace").strip()


def too_large(place: str, about: Mapping[str, Any], most: int) -> str | None:
    """The fault of a file that is longer than such a one may be: looked at before it is fetched."""
    if int(about.get("size") or 0) <= most:
        return None
    name, cure = PurePosixPath(place).name, "take it out of the source"
    return fault(name, expected=f"at most {most} bytes", came="more", cure=cure)


def copy_at_most(fs: Any, place: str, to: Path, most: int) -> int:
    """Copies a file of `fs` here and returns its length in bytes: `most` of them at most, the rest is left,
    whatever its listing said."""
    left = most
    with fs.open(place, "rb") as source, open(to, "wb") as file:
        while left and (chunk := source.read(min(_CHUNK, left))):
            file.write(chunk)
            left -= len(chunk)
    return most - left


def signature_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Changes with the content of `files` (name -> what a listing tells of it)."""
    told = {name: [one.get("size"), *(str(one.get(mark)) for mark in _MARKS)] for name, one in files.items()}
    return json.dumps(told, sort_keys=True)
