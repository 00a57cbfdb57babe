"""Learned vectors of one encoder, of all resident tasks, in buffers that are never allocated anew.

Compiled graphs and CUDA graphs read the buffers, so they are only ever filled in place.

L, d: layers and width of the encoder; R: prompt tokens (rows) of all residents; V: their vectors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompts.errors import CapacityError

__all__ = ["INDEX", "VectorBank"]

INDEX = torch.int32
"""Of indices on the device: a prompt at one layer has a place at each, and its vector may be narrow."""

_NONE = -1


class VectorBank(nn.Module):
    """A row is one prompt token; at each layer it has a vector, or none: then the layer before has its way.

    `vectors`: (V + 1, d) in the model's dtype; `places`: (L, R + 1) `INDEX`, the vector of each row at each
    layer, -1 where it has none. Rows and vectors are handed out one by one, so that room never falls into
    pieces. Row 0 and vector 0 are the dummy's: zeros at every layer. A row without a vector at layer 0 has
    the dummy's there: it enters as zeros.
    """

    def __init__(
        self,
        kind: str,
        *,
        layers: int,
        rows: int,
        vectors: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.vectors: Tensor
        self.places: Tensor
        count = vectors + 1 if layers else 0
        stored = torch.zeros((count, width), dtype=dtype, device=device)
        self.register_buffer("vectors", stored, persistent=False)
        places = torch.full((layers, rows + 1), _NONE, dtype=INDEX, device=device)
        places[:, 0] = 0
        self.register_buffer("places", places, persistent=False)
        self._free_rows = list(range(rows, 0, -1))
        self._free_vectors = list(range(vectors, 0, -1))
        self._owned: dict[int, list[int]] = {}

    @property
    def free_rows(self) -> int:
        """Rows that belong to no one."""
        return len(self._free_rows)

    @property
    def free_vectors(self) -> int:
        """Vectors that belong to no one."""
        return len(self._free_vectors)

    def add(self, prompts: Tensor, layers: Sequence[int]) -> Tensor:
        """Stores `prompts` (len(layers), P, d); returns their rows, (P,) int64 on the CPU.

        Raises:
            CapacityError: not enough rows or vectors; nothing was changed.
        """
        depth, length = prompts.shape[:2]
        self._require(length, depth * length)
        rows = [self._free_rows.pop() for _ in range(length)]
        taken = torch.tensor([self._free_vectors.pop() for _ in range(depth * length)]).view(depth, length)
        for index, row in enumerate(rows):
            self._owned[row] = taken[:, index].tolist()
        try:
            self._write(prompts, torch.tensor(layers), torch.tensor(rows), taken)
        except Exception:
            self.remove(torch.tensor(rows))
            raise
        return torch.tensor(rows)

    def remove(self, rows: Tensor) -> None:
        """Gives rows back; a step that still names them must be stopped before it runs."""
        self.places[:, rows.to(self.places.device)] = _NONE
        for row in reversed(rows.tolist()):
            self._free_vectors += reversed(self._owned.pop(row))
            self._free_rows.append(row)

    def take(self, layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (…, d) of `rows` (…) at a layer and whether there is one (…); what has none is arbitrary.

        A row below 0 has none. There is no branch on values, so that graphs are the same for every batch.
        """
        places = self.places[layer][rows.clamp(min=0)]
        return self.vectors[places.clamp(min=0)], (rows >= 0) & (places >= 0)

    def _require(self, rows: int, vectors: int) -> None:
        for what, needed, free in (
            (f"{self.kind}_rows", rows, self.free_rows),
            (f"{self.kind}_vectors", vectors, self.free_vectors),
        ):
            if needed > free:
                raise CapacityError(f"{what}: {needed} are needed, {free} are free; raise {what}")

    def _write(self, prompts: Tensor, layers: Tensor, rows: Tensor, taken: Tensor) -> None:
        device = self.vectors.device
        values = prompts.to(device=device, dtype=self.vectors.dtype, non_blocking=True)
        self.vectors[taken.flatten().to(device)] = values.flatten(0, 1)
        self.places[0, rows.to(device)] = 0
        self.places[layers.to(device).unsqueeze(1), rows.to(device).unsqueeze(0)] = taken.to(device, INDEX)
