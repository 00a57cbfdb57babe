"""The workers' memory of learned prompts: which tasks are on the device, and the index of the step being run.

Buffers are allocated once and only ever filled in place, so that compiled graphs and CUDA graphs that read
them stay right. Written for vLLM 0.32 (`async_tensor_h2d`).

d: width of the language model; T: tokens of one step at most; P, P_v: prompt lengths.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from vllm.utils.torch_utils import async_tensor_h2d

from prompts.errors import CapacityError, EngineError
from server.engine.facts import EngineFacts
from server.engine.handles import digest_head
from server.engine.host import HostCopy
from server.engine.prefixes import KvLayout, PrefixBank
from server.engine.vectors import INDEX, VectorBank

__all__ = ["PromptBank", "Resident"]

_NO_ROWS = torch.empty(0, dtype=torch.int64)


@dataclass(kw_only=True)
class Resident:
    """A task on the device. `loads`: tokens of the front ends' loads of the same digest.

    `text_rows` (P,), `vision_rows` (P_v,): int64 on the CPU, rows of the two `VectorBank`s; `prefix_rows`
    (P,): of the `PrefixBank`, for a task with a prefix, which has no text rows; `place`, `head_place`: of its
    projector and its lm_head, None where it has none.
    """

    slot: int
    digest: str
    text_rows: Tensor = _NO_ROWS
    vision_rows: Tensor = _NO_ROWS
    prefix_rows: Tensor = _NO_ROWS
    vision_mode: Literal["released", "paper"] | None = None
    place: int | None = None
    head_place: int | None = None
    loads: set[str] = field(default_factory=set)

    def step_rows(self) -> tuple[Tensor, Tensor]:
        """Rows of its prompt tokens in `text` and in `prefix`, (P,) each; -1 is none.

        A prefix token has the dummy's row in `text`: its states are zeros, whatever the layers make of them.
        """
        if len(self.prefix_rows):
            return torch.zeros_like(self.prefix_rows), self.prefix_rows
        return self.text_rows, torch.full_like(self.text_rows, -1)


class PromptBank(nn.Module):
    """Vectors and projectors of all tasks on the device, and the index of the step being run.

    A digest has one slot for as long as the worker runs, on the device or not, and no other digest ever gets
    it: so what vLLM's caches hold under digest and slot is right also when the task has left and come back.

    `rows`: (T,) `INDEX`, the row of `text` of each token of the step, -1 for ordinary tokens. `prefix`: None
    where there is no room for prefixes, or no `kv` to put them into.
    """

    def __init__(
        self,
        facts: EngineFacts,
        *,
        max_step_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        kv: KvLayout | None = None,
    ) -> None:
        super().__init__()
        room = facts.room
        self.rows: Tensor
        rows = torch.full((max_step_tokens,), -1, dtype=INDEX, device=device)
        self.register_buffer("rows", rows, persistent=False)
        self.text = VectorBank(
            "text",
            layers=facts.text_layers,
            rows=room.text_rows,
            vectors=room.text_vectors,
            width=facts.text_hidden,
            dtype=dtype,
            device=device,
        )
        self.vision = VectorBank(
            "vision",
            layers=facts.vision_layers,
            rows=room.vision_rows,
            vectors=room.vision_vectors,
            width=facts.vision_hidden,
            dtype=dtype,
            device=device,
        )
        self.prefix: PrefixBank | None = None
        if kv is not None and room.prefix_rows:
            self.prefix = PrefixBank(
                kv, rows=room.prefix_rows, max_step_tokens=max_step_tokens, dtype=dtype, device=device
            )
        self._projectors = {
            name: torch.zeros((room.projectors, *shape), dtype=dtype, device=device)
            for name, shape in facts.projector.items()
        }
        self._free_places = list(range(room.projectors - 1, -1, -1))
        self._heads = torch.zeros((room.lm_heads, *facts.lm_head), dtype=dtype, device=device)
        self._free_head_places = list(range(room.lm_heads - 1, -1, -1))
        self._tasks = room.tasks
        self._slots: dict[str, int] = {}
        self._residents: dict[int, Resident] = {}
        self._dummy = Resident(slot=0, digest="0" * 64, text_rows=torch.zeros(1, dtype=torch.int64))

    # Residents ------------------------------------------------------------------------------------------

    def find(self, digest: str) -> Resident | None:
        """The resident with that digest, if any."""
        slot = self._slots.get(digest)
        return None if slot is None else self._residents.get(slot)

    def admit(self, slot: int, head: int) -> Resident:
        """The resident a ticket names: `slot` and the `digest_head` of its digest.

        Raises:
            EngineError: it is not resident; the request must not be answered by the base model.
        """
        resident = self._residents.get(slot)
        if resident is None or digest_head(resident.digest) != head:
            raise EngineError(f"slot {slot}: the task of this request is not resident in the worker")
        return resident

    def slot_of(self, digest: str) -> int:
        """The slot of a digest, from 1 on in the order they were first asked for."""
        return self._slots.setdefault(digest, len(self._slots) + 1)

    def hold(self, digest: str, token: str) -> Resident | None:
        """Counts one more load of a resident; None where there is none of that digest."""
        resident = self.find(digest)
        if resident is not None:
            resident.loads.add(token)
        return resident

    def load(self, copy: HostCopy, token: str) -> Resident:
        """Brings a task that is not there yet to the device. `token`: what undoes this load, see `unload`.

        Raises:
            CapacityError: no room; nothing was changed.
            EngineError: its tensors were not copied; nothing was changed.
        """
        resident = Resident(slot=self.slot_of(copy.digest), digest=copy.digest, vision_mode=copy.vision_mode)
        if len(self._residents) >= self._tasks:
            raise CapacityError(f"tasks: all {self._tasks} places on the device are taken")
        try:
            self._place(copy, resident)
        except CapacityError:
            self._free(resident)
            raise
        except Exception as error:
            self._free(resident)
            raise EngineError(f"digest {copy.digest[:12]}: its tensors were not copied: {error}") from error
        resident.loads.add(token)
        self._residents[resident.slot] = resident
        return resident

    def unload(self, digest: str, token: str) -> int:
        """Undoes the load of that token, if there was one; frees the room with the last of its digest.

        Returns the loads that are left.
        """
        resident = self.find(digest)
        if resident is None:
            return 0
        resident.loads.discard(token)
        if not resident.loads:
            del self._residents[resident.slot]
            self._free(resident)
        return len(resident.loads)

    def projector_of(self, resident: Resident) -> Mapping[str, Tensor]:
        """Its own projector by parameter name, on the device; empty where it has none."""
        if resident.place is None:
            return {}
        return {name: stored[resident.place] for name, stored in self._projectors.items()}

    @property
    def has_heads(self) -> bool:
        """Whether any resident has an lm_head of its own."""
        return len(self._free_head_places) < len(self._heads)

    def head_at(self, place: int) -> Tensor:
        """The lm_head (vocabulary, d) of the resident with that `head_place`."""
        return self._heads[place]

    def _place(self, copy: HostCopy, resident: Resident) -> None:
        if copy.text is not None:
            resident.text_rows = self.text.add(copy.text.prompts, copy.text.layers)
        if copy.prefix is not None:
            if self.prefix is None:
                raise CapacityError("prefix_rows: there is no room for prefixes; raise prefix_rows")
            resident.prefix_rows = self.prefix.add(*copy.prefix)
        if copy.vision is not None:
            resident.vision_rows = self.vision.add(copy.vision.prompts, copy.vision.layers)
        if copy.projector:
            if not self._free_places:
                raise CapacityError("projectors: all places are taken; raise projectors")
            resident.place = self._free_places.pop()
            for name, tensor in copy.projector.items():
                self._projectors[name][resident.place].copy_(tensor, non_blocking=True)
        if copy.lm_head is not None:
            if not self._free_head_places:
                raise CapacityError("lm_heads: all places are taken; raise lm_heads")
            resident.head_place = self._free_head_places.pop()
            self._heads[resident.head_place].copy_(copy.lm_head, non_blocking=True)

    def _free(self, resident: Resident) -> None:
        self.text.remove(resident.text_rows)
        self.vision.remove(resident.vision_rows)
        if self.prefix is not None:
            self.prefix.vectors.remove(resident.prefix_rows)
        if resident.place is not None:
            self._free_places.append(resident.place)
        if resident.head_place is not None:
            self._free_head_places.append(resident.head_place)

    # The step being run ---------------------------------------------------------------------------------

    def clear_step(self) -> None:
        """Marks every token of the step, padding included, as an ordinary one."""
        self.rows.fill_(-1)
        if self.prefix is not None:
            self.prefix.rows.fill_(-1)

    def set_step(self, positions: Tensor, handles: Tensor) -> None:
        """Marks `positions` (n,) of the step as the prompt tokens `handles` (n, 2) name; both on the CPU.

        A handle is (slot, place in the prompt).

        Raises:
            EngineError: a task that is not resident any more, or a place behind its prompt's end.
        """
        text_rows, prefix_rows = self._find_rows(handles)
        _mark(self.rows, positions, text_rows)
        if self.prefix is not None:
            _mark(self.prefix.rows, positions, prefix_rows)

    def _find_rows(self, handles: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n,) in `text` and in `prefix` of the tokens that `handles` (n, 2) name."""
        slots, places = handles.unbind(dim=1)
        text_rows, prefix_rows = torch.empty_like(places), torch.empty_like(places)
        for slot in slots.unique().tolist():
            is_its = slots == slot
            resident = self._residents.get(slot) if slot else self._dummy
            own = resident.step_rows() if resident is not None else (_NO_ROWS, _NO_ROWS)
            if int(places[is_its].max()) >= len(own[0]):
                raise EngineError(f"slot {slot}: a request's task is not resident any more")
            text_rows[is_its], prefix_rows[is_its] = (rows[places[is_its]] for rows in own)
        return text_rows, prefix_rows


def _mark(buffer: Tensor, positions: Tensor, rows: Tensor) -> None:
    """Puts `rows` (n,) at `positions` (n,) of the step's buffer (T,), -1 between them."""
    step = torch.full((int(positions.max()) + 1,), -1, dtype=INDEX, device="cpu")
    step[positions] = rows.to(INDEX)
    buffer[: step.shape[0]].copy_(async_tensor_h2d(step, device=buffer.device), non_blocking=True)
