"""A resident task as requests carry it.

The front end sets `CURRENT_TASK` before vLLM renders a request; the renderer (`renderer.py`) puts the handle
into the request, and from there on everything is keyed by `TaskHandle.cache_key`, never by the task's name.
This module imports neither vLLM nor the bundle code that loads files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from prompts.manifest import FrameSpec

__all__ = [
    "CURRENT_TASK",
    "MODALITY",
    "RESERVED_HASH_PREFIX",
    "TaskFrame",
    "TaskHandle",
    "digest_head",
    "using_task",
]

MODALITY = "learned_prompt"
"""The learned prompt among a request's multimodal items."""
RESERVED_HASH_PREFIX = "passepartout:"
"""Hashes of ours begin with this; a client's own uuid or hash may not."""


@dataclass(frozen=True, eq=False)
class TaskFrame:
    """The learned frame, kept in the front end: pictures get it before they reach a worker.

    `delta`: (3, H, W) float32, added to the padded picture in [0, 1].
    """

    spec: FrameSpec
    delta: Tensor


@dataclass(frozen=True, kw_only=True)
class TaskHandle:
    """One bundle as requests name it in every worker.

    `slot` numbers digests from 1 in the order the workers first heard of them; it stays the digest's own, so
    that no cache entry of another can be met, and a handle holds also when its task left the device and came
    back.
    """

    name: str
    digest: str
    slot: int
    text_length: int = 0
    vision_length: int = 0
    vision_mode: Literal["released", "paper"] | None = None
    has_projector: bool = False
    has_lm_head: bool = False
    frame: TaskFrame | None = field(default=None, compare=False, repr=False)

    @property
    def cache_key(self) -> str:
        """What every cache of vLLM knows this task by."""
        return f"{self.digest}:{self.slot}"

    @property
    def has_frame(self) -> bool:
        """Whether pictures get a learned frame."""
        return self.frame is not None

    @property
    def changes_pictures(self) -> bool:
        """Whether the same picture looks different to the language model under this task."""
        return self.has_frame or self.vision_length > 0 or self.has_projector

    @property
    def needs_picture(self) -> bool:
        """Whether a request without a picture would be answered by the base model alone."""
        return self.text_length == 0

    @property
    def extra_image_tokens(self) -> int:
        """Tokens each picture takes beyond the base model's: P_v in mode `released`, else none."""
        return self.vision_length if self.vision_mode == "released" else 0


def digest_head(digest: str) -> int:
    """First eight bytes of a digest as a signed integer: what tickets carry of it."""
    return int.from_bytes(bytes.fromhex(digest[:16]), "big", signed=True)


CURRENT_TASK: ContextVar[TaskHandle | None] = ContextVar("passepartout_task", default=None)
"""The task of the request being rendered; None is the base model."""


@contextmanager
def using_task(handle: TaskHandle | None) -> Iterator[None]:
    """Renders what happens inside under `handle` (None: the base model)."""
    token = CURRENT_TASK.set(handle)
    try:
        yield
    finally:
        CURRENT_TASK.reset(token)
