"""A source's `routing.json`, brought beside the bundles that came from there."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompts.errors import SourceError, StoreError
from prompts.remote_files import copy_at_most, signature_of, too_large
from prompts.routing import MAX_ROUTING_BYTES, ROUTING_FILE, read_routing

__all__ = ["RoutingCopy"]


class RoutingCopy:
    """Follows the `routing.json` of a source that the file system `fs` reads."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._refused: tuple[str, str] | None = None
        """What was refused as it lies there, and why, so that it is not fetched and parsed at each look."""

    def sync(self, folder: Path, about: Mapping[str, Any] | None, known: dict[str, list[str]]) -> None:
        """Take the file into `folder` when it changes. `about`: what the source's listing tells of it, None:
        there is none; `known`: file -> signature and digest of what was fetched, brought up to date.

        A faulty one is not taken, and the last good one holds. Where there is none an empty file takes its
        place, with which nothing is served: the source says what is to serve, and nobody knows what.

        Raises:
            SourceError: it is faulty; as the file system does: it cannot be fetched.
        """
        if about is None:
            if known.pop(ROUTING_FILE, None) is not None:
                (folder / ROUTING_FILE).unlink(missing_ok=True)
            return
        signature = signature_of({ROUTING_FILE: about})
        if known.get(ROUTING_FILE, [""])[0] == signature:
            return
        try:
            self._take(folder, about, signature)
        except BaseException:
            if not (folder / ROUTING_FILE).exists():
                (folder / ROUTING_FILE).touch()
                known[ROUTING_FILE] = ["", ""]
            raise
        known[ROUTING_FILE] = [signature, ""]

    def _take(self, folder: Path, about: Mapping[str, Any], signature: str) -> None:
        if self._refused is not None and self._refused[0] == signature:
            raise SourceError(self._refused[1])
        place, draft = about["name"], folder / f".routing.{secrets.token_hex(4)}"
        try:
            if found := too_large(place, about, MAX_ROUTING_BYTES):
                raise SourceError(found)
            draft.mkdir()
            copy_at_most(self._fs, place, draft / ROUTING_FILE, MAX_ROUTING_BYTES + 1)
            read_routing(draft)
            (draft / ROUTING_FILE).replace(folder / ROUTING_FILE)
        except (SourceError, StoreError) as error:
            self._refused = signature, str(error)
            raise SourceError(str(error)) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
