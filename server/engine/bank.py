"""The workers' memory of learned prompts: one row bank per encoder, and who owns which row.

Buffers are allocated once and only ever filled in place, so that compiled graphs and CUDA graphs that read
them stay right. Row 0 of each bank is the dummy's: zeros. Written for vLLM 0.32 (`async_tensor_h2d`).

L, d: layers and width of the language model; L_v, d_v: of the vision encoder; T: tokens of one step at most.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from vllm.utils.torch_utils import async_tensor_h2d

from prompts.bundle import Bundle
from prompts.errors import CapacityError, EngineError
from server.engine.facts import EngineFacts
from server.engine.rows import RowAllocator

__all__ = ["PromptBank", "Resident"]


@dataclass(kw_only=True)
class Resident:
    """A task in this worker's bank. `loads` counts the front end's loads of the same digest."""

    slot: int
    digest: str
    text_row0: int = 0
    text_length: int = 0
    vision_row0: int = 0
    vision_length: int = 0
    vision_mode: Literal["released", "paper"] | None = None
    projector: dict[str, Tensor] = field(default_factory=dict)
    loads: int = 1

    @property
    def digest_head(self) -> int:
        """First eight bytes of the digest, as tickets carry them."""
        return int.from_bytes(bytes.fromhex(self.digest[:16]), "big", signed=True)


class PromptBank(nn.Module):
    """Rows of all resident tasks, and the index of the step being run.

    `rows`: (T,) int64, the bank row of each token of the step, -1 for ordinary tokens.
    `text`: (L, text_rows + 1, d); `vision`: (L_v, vision_rows + 1, d_v), both in the model's dtype.
    """

    def __init__(
        self, facts: EngineFacts, *, max_step_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.rows: Tensor
        self.text: Tensor
        self.vision: Tensor
        text_shape = (facts.text_layers, facts.text_rows + 1, facts.text_hidden)
        vision_rows = facts.vision_rows + 1 if facts.vision_layers else 0
        vision_shape = (facts.vision_layers, vision_rows, facts.vision_hidden)
        rows = torch.full((max_step_tokens,), -1, dtype=torch.int64, device=device)
        self.register_buffer("rows", rows, persistent=False)
        for name, shape in (("text", text_shape), ("vision", vision_shape)):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device), persistent=False)
        self._text_rows = RowAllocator("text_rows", first=1, capacity=facts.text_rows)
        self._vision_rows = RowAllocator("vision_rows", first=1, capacity=facts.vision_rows)
        self._slots = facts.slots
        self._next_slot = 1
        self._residents: dict[int, Resident] = {}
        self._owners = torch.full((facts.text_rows + 1,), -1, dtype=torch.int64, device="cpu")
        self._owners[0] = 0

    # Residents ------------------------------------------------------------------------------------------

    def find(self, digest: str) -> Resident | None:
        """The resident with that digest, if any."""
        return next((one for one in self._residents.values() if one.digest == digest), None)

    def admit(self, slot: int, digest_head: int) -> Resident:
        """The resident a ticket names.

        Raises:
            EngineError: it is not resident; the request must not be answered by the base model.
        """
        resident = self._residents.get(slot)
        if resident is None or resident.digest_head != digest_head:
            raise EngineError(f"slot {slot}: the task of this request is not resident in the worker")
        return resident

    def load(self, bundle: Bundle) -> Resident:
        """Copies a bundle (already checked against the facts) into free rows.

        Raises:
            CapacityError: no slot or no run of rows is free; nothing was changed.
        """
        if (known := self.find(bundle.digest)) is not None:
            known.loads += 1
            return known
        if len(self._residents) >= self._slots:
            raise CapacityError(f"slots: all {self._slots} are taken; unload a task or raise slots")
        resident = self._place(bundle)
        try:
            self._copy(bundle, resident)
        except Exception as error:
            self._free(resident)
            raise EngineError(f"task {bundle.name}: its tensors were not copied: {error}") from error
        self._residents[resident.slot] = resident
        self._next_slot += 1
        return resident

    def unload(self, slot: int, digest: str) -> int:
        """Undoes one load; frees the rows with the last. Returns the loads that are left.

        Raises:
            EngineError: no such resident.
        """
        resident = self._residents.get(slot)
        if resident is None or resident.digest != digest:
            raise EngineError(f"slot {slot}: no task of digest {digest[:12]} is resident")
        resident.loads -= 1
        if resident.loads == 0:
            del self._residents[slot]
            self._free(resident)
        return resident.loads

    def _free(self, resident: Resident) -> None:
        self._text_rows.release(resident.text_row0, resident.text_length)
        self._vision_rows.release(resident.vision_row0, resident.vision_length)
        self._owners[resident.text_row0 : resident.text_row0 + resident.text_length] = -1

    def _place(self, bundle: Bundle) -> Resident:
        text, vision = bundle.manifest.text, bundle.manifest.vision
        text_length = text.length if text else 0
        vision_length = vision.length if vision else 0
        text_row0 = self._text_rows.allocate(text_length)
        try:
            vision_row0 = self._vision_rows.allocate(vision_length)
        except CapacityError:
            self._text_rows.release(text_row0, text_length)
            raise
        return Resident(
            slot=self._next_slot,
            digest=bundle.digest,
            text_row0=text_row0,
            text_length=text_length,
            vision_row0=vision_row0,
            vision_length=vision_length,
            vision_mode=vision.mode if vision else None,
        )

    def _copy(self, bundle: Bundle, resident: Resident) -> None:
        if bundle.text_prompts is not None:
            end = resident.text_row0 + resident.text_length
            self.text[:, resident.text_row0 : end].copy_(bundle.text_prompts)
            self._owners[resident.text_row0 : end] = resident.slot
        if bundle.vision_prompts is not None:
            end = resident.vision_row0 + resident.vision_length
            self.vision[:, resident.vision_row0 : end].copy_(bundle.vision_prompts)
        resident.projector = {
            name: tensor.to(device=self.text.device, dtype=self.text.dtype)
            for name, tensor in bundle.projector_state().items()
        }

    # The step being run ---------------------------------------------------------------------------------

    def clear_step(self) -> None:
        """Marks every token of the step, padding included, as an ordinary one."""
        self.rows.fill_(-1)

    def set_step(self, positions: Tensor, handles: Tensor) -> None:
        """Marks `positions` (n,) of the step as the prompt rows that `handles` (n, 2) name; both on the CPU.

        Raises:
            EngineError: a row does not belong to the slot that claims it.
        """
        slots, rows = handles.unbind(dim=1)
        if not bool((self._owners[rows] == slots).all()):
            raise EngineError(
                f"slots {sorted(set(slots.tolist()))}: a request's task is not resident any more"
            )
        step = torch.full((int(positions.max()) + 1,), -1, dtype=torch.int64, device="cpu")
        step[positions] = rows
        self.rows[: step.shape[0]].copy_(async_tensor_h2d(step, device=self.rows.device), non_blocking=True)
