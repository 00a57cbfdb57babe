"""A worker's two tiers together: host memory and the device, as the front end moves tasks between them."""

from pathlib import Path
from typing import Literal

from prompts.bundle import load_bundle
from prompts.errors import BundleError, EngineError, StaleBundleError
from server.engine.bank import PromptBank, Resident
from server.engine.facts import EngineFacts, find_misfits
from server.engine.host import HostCopy, HostTier, make_host_copy

__all__ = ["WorkerTiers"]


class WorkerTiers:
    """What `worker.py` answers the front end with; called between steps."""

    def __init__(self, bank: PromptBank, facts: EngineFacts, *, host_tasks: int) -> None:
        self._bank = bank
        self._facts = facts
        self._host = HostTier(self._read, max_tasks=host_tasks)

    def stage(self, path: str, digest: str) -> Literal["device", "host", "store", "reading"]:
        """Where the bundle is, or where it has come from; where it is nowhere yet, its reading has begun.

        Raises:
            StaleBundleError: the folder holds something else by now.
            EngineError: what it holds does not fit.
        """
        if self._bank.find(digest) is not None:
            return "device"
        return self._host.stage(Path(path), digest)

    def load(self, digest: str, token: str) -> Resident:
        """Brings what was staged to the device, or counts one more load of what is there.

        Raises:
            NotStagedError: it is not in host memory.
            CapacityError: no room.
        """
        self._bank.slot_of(digest)  # first of all: whatever fails here, the workers count alike
        return self._bank.hold(digest, token) or self._bank.load(self._host.take(digest), token)

    def unload(self, digest: str, token: str) -> int:
        """Undoes that load, if there was one; returns those that are left."""
        left = self._bank.unload(digest, token)
        if not left:
            self._host.touch(digest)
        return left

    def forget(self, digest: str) -> None:
        """Drops the bundle from host memory."""
        self._host.forget(digest)

    @property
    def host_tasks(self) -> int:
        """Bundles in host memory now."""
        return len(self._host)

    def _read(self, path: Path, digest: str) -> HostCopy:
        """Runs in a thread of the host tier."""
        try:
            bundle = load_bundle(path)
        except BundleError as error:
            raise StaleBundleError(f"{path} cannot be loaded any more: {error}") from error
        if bundle.digest != digest:
            raise StaleBundleError(f"{path} changed: expected digest {digest}, came {bundle.digest}")
        if misfits := find_misfits(bundle, self._facts):
            raise EngineError(f"{path} does not fit: {'; '.join(misfits)}")
        vectors = self._bank.text.vectors
        return make_host_copy(bundle, dtype=vectors.dtype, pin=vectors.is_cuda)
