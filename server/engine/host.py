"""Bundles in a worker's host memory: read behind the steps, kept for the next load while there is room.

A worker's calls come between steps, so none may read a file: `HostTier.stage` starts a thread and says
where the copy is. Everything here but the reading itself runs in the worker's own thread.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from prompts.bundle import Bundle
from prompts.contents import PREFIX_KEYS, PREFIX_VALUES
from prompts.errors import NotStagedError

__all__ = ["HostCopy", "HostTier", "LayerPrompts", "make_host_copy"]


_READERS = 4
"""Threads, so that one read that hangs (a network that is away) does not keep the others waiting."""


@dataclass(frozen=True)
class LayerPrompts:
    """`prompts` (len(layers), P, d) for those layers of an encoder."""

    prompts: Tensor
    layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class HostCopy:
    """What a worker needs of a bundle, in the engine's dtype."""

    digest: str
    text: LayerPrompts | None = None
    vision: LayerPrompts | None = None
    vision_mode: Literal["released", "paper"] | None = None
    prefix: tuple[Tensor, Tensor] | None = None
    """Keys and values (L, P, w) of the whole model."""
    projector: dict[str, Tensor] = field(default_factory=dict)
    lm_head: Tensor | None = None


def make_host_copy(bundle: Bundle, *, dtype: torch.dtype, pin: bool) -> HostCopy:
    """The copy of a bundle already checked; `pin`: in page-locked memory, which a GPU reads faster."""

    def hold(tensor: Tensor) -> Tensor:
        held = tensor.to(dtype).contiguous()
        return held.pin_memory() if pin else held

    text, vision = bundle.manifest.text, bundle.manifest.vision
    deep = {"text": (text, bundle.text_prompts), "vision": (vision, bundle.vision_prompts)}
    parts = {
        name: LayerPrompts(hold(prompts), spec.layer_indices)
        for name, (spec, prompts) in deep.items()
        if spec is not None and prompts is not None
    }
    prefix = [hold(bundle.tensors[name]) for name in (PREFIX_KEYS, PREFIX_VALUES) if bundle.manifest.prefix]
    return HostCopy(
        digest=bundle.digest,
        text=parts.get("text"),
        vision=parts.get("vision"),
        vision_mode=vision.mode if vision else None,
        prefix=(prefix[0], prefix[1]) if prefix else None,
        projector={name: hold(tensor) for name, tensor in bundle.projector_state().items()},
        lm_head=None if bundle.lm_head_weight is None else hold(bundle.lm_head_weight),
    )


class HostTier:
    """At most `max_tasks` copies; one that is staged stays until it is taken.

    The first to be dropped is the one that came to the device, or left it, the longest ago. Requests for a
    task that stays on the device do not count: they need no copy.
    """

    def __init__(self, read: Callable[[Path, str], HostCopy], *, max_tasks: int) -> None:
        self._read = read
        self._max_tasks = max_tasks
        self._copies: OrderedDict[str, HostCopy] = OrderedDict()
        self._awaited: set[str] = set()
        self._reading: dict[str, Future[HostCopy]] = {}
        self._reader = ThreadPoolExecutor(_READERS, thread_name_prefix="passepartout-read")

    def __len__(self) -> int:
        return len(self._copies)

    def stage(self, path: Path, digest: str) -> Literal["host", "store", "reading"]:
        """ "host": the copy was here; "store": it is here now; "reading": it is on its way, ask again.

        Raises:
            EngineError: the folder cannot be read, holds something else by now, or does not fit.
        """
        if digest in self._copies:
            self._awaited.add(digest)
            return "host"
        if digest not in self._reading:
            self._reading[digest] = self._reader.submit(self._read, path, digest)
        if not self._reading[digest].done():
            return "reading"
        self._copies[digest] = self._reading.pop(digest).result()
        self._awaited.add(digest)
        return "store"

    def take(self, digest: str) -> HostCopy:
        """The staged copy, from now on the last to be dropped; what is too much by now is dropped.

        Raises:
            NotStagedError: it is not here.
        """
        copy = self._copies.get(digest)
        if copy is None:
            raise NotStagedError(f"digest {digest[:12]}: its tensors are not in host memory, stage it first")
        self._awaited.discard(digest)
        self.touch(digest)
        self._trim()
        return copy

    def touch(self, digest: str) -> None:
        """Makes the copy, if there is one, the last to be dropped."""
        if digest in self._copies:
            self._copies.move_to_end(digest)

    def forget(self, digest: str) -> None:
        """Drops the copy, if there is one."""
        self._copies.pop(digest, None)
        self._awaited.discard(digest)
        self._reading.pop(digest, None)

    def _trim(self) -> None:
        spare = [digest for digest in self._copies if digest not in self._awaited]
        for digest in spare[: max(len(self._copies) - self._max_tasks, 0)]:
            del self._copies[digest]
