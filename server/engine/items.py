"""What travels from the renderer to the model: the learned prompt as a multimodal item, and tickets.

A ticket is a row of two int64: (slot, first eight bytes of the digest). The model admits an item only when
the slot is resident with that digest. Written for vLLM 0.32 (`vllm.multimodal.parse`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from vllm.multimodal.parse import ProcessorBatchItems

from server.engine.handles import MODALITY, RESERVED_HASH_PREFIX, TaskHandle, digest_head

__all__ = [
    "DUMMY_HANDLE",
    "MODALITY",
    "PICTURE_TICKET_FIELD",
    "PROMPT_ROWS_FIELD",
    "PROMPT_TICKET_FIELD",
    "RESERVED_HASH_PREFIX",
    "PromptItems",
    "make_rows",
    "make_ticket",
    "read_cache_key",
]

PROMPT_ROWS_FIELD = "passepartout_rows"
"""(1, P, 2) int64 on the CPU: (slot, place in the prompt) of each prompt token."""
PROMPT_TICKET_FIELD = "passepartout_prompt_ticket"
"""(1, 2) int64 on the CPU: the ticket of the learned-prompt item."""
PICTURE_TICKET_FIELD = "passepartout_picture_ticket"
"""(n, 2) int64 on the CPU: a ticket per picture; zeros where the base model sees it."""

DUMMY_HANDLE = TaskHandle(name="dummy", digest="0" * 64, slot=0, text_length=1)
"""What vLLM warms up and profiles with: row 0 of the bank, zeros for ever."""


class PromptItems(ProcessorBatchItems[TaskHandle]):
    """The at most one learned prompt of a request. Nothing of it goes to the model's own processor.

    `get_passthrough_data` stays empty: an item with passthrough data switches vLLM's processor cache off for
    the whole request.
    """

    def __init__(self, data: Sequence[TaskHandle]) -> None:
        super().__init__(data, MODALITY)

    def get_item_for_hash(self, index: int) -> str:
        """The cache key, so that vLLM never pickles a handle to hash it."""
        return self.get(index).cache_key

    def get_processor_data(self) -> Mapping[str, object]:
        return {}

    def get_passthrough_data(self) -> Mapping[str, object]:
        return {}


def make_ticket(handle: TaskHandle | None) -> Tensor:
    """The ticket of `handle`, (2,) int64; zeros for the base model."""
    if handle is None or handle.slot == 0:
        return torch.zeros(2, dtype=torch.int64)
    return torch.tensor([handle.slot, digest_head(handle.digest)], dtype=torch.int64)


def read_cache_key(key: str) -> tuple[int, int]:
    """(slot, first eight bytes of the digest) of a `TaskHandle.cache_key`, as tickets have them."""
    digest, _, slot = key.partition(":")
    return int(slot), digest_head(digest)


def make_rows(handle: TaskHandle) -> Tensor:
    """(slot, place in the prompt) of each text prompt token, (P, 2) int64."""
    places = torch.arange(handle.text_length, dtype=torch.int64)
    return torch.stack([torch.full_like(places, handle.slot), places], dim=1)
