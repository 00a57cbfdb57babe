"""Families whose pictures go whole through vLLM's own `embed_multimodal`: cut into tiles, packed, queried.

The pictures of a batch are embedded one task at a time, so that a family need not know which tile is whose.
A task's own projector is put in by a forward hook on the model's; what the model's made is thrown away.
Written for vLLM 0.32: `embed_multimodal` gives one tensor (n, d) for each picture, in their order.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models.utils import StageMissingLayer

from server.engine.bank import Resident
from server.engine.families.base import PromptedModel

__all__ = ["StockPictures"]


class StockPictures(PromptedModel):
    """Goes before the vLLM model class in the bases, in the place of `PromptedModel`.

    A family with neither vision prompts nor a projector says only where its decoder layers are.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._own_projector: Mapping[str, Tensor] = {}
        module = self.find_projector_module()
        if module is not None:
            module.register_forward_hook(self._project)

    # What a family says ---------------------------------------------------------------------------------

    def find_projector_module(self) -> nn.Module | None:
        """The module, features (…, d_v) in and (…, d) out, that a task's own projector stands in for."""
        return None

    @abstractmethod
    def run_projector(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        """`features` (…, d_v) through a task's own projector: (…, d). Asked only where there is a module."""

    def find_projector(self) -> dict[str, tuple[int, ...]] | str:
        module = self.find_projector_module()
        if module is None or isinstance(module, StageMissingLayer):
            return super().find_projector()
        return {name: tuple(weight.shape) for name, weight in module.named_parameters()}

    def select_pictures(self, kwargs: Mapping[str, Any], members: list[int]) -> dict[str, Any]:
        """The pictures `members` of a batch, of whose fields each holds one entry for each picture."""
        return {
            name: value[members] if isinstance(value, Tensor) else [value[index] for index in members]
            for name, value in kwargs.items()
        }

    # A step ---------------------------------------------------------------------------------------------

    def _embed_pictures(self, residents: Sequence[Resident | None], kwargs: dict[str, Any]) -> list[Tensor]:
        groups: dict[int, list[int]] = {}
        for index, one in enumerate(residents):
            groups.setdefault(one.slot if one else 0, []).append(index)
        embedded: dict[int, Tensor] = {}
        for members in groups.values():
            with self._seen_by(residents[members[0]]):
                made = super().embed_multimodal(**self.select_pictures(kwargs, members))
            embedded.update(zip(members, made, strict=True))
        return [embedded[index] for index in range(len(residents))]

    @contextmanager
    def _seen_by(self, resident: Resident | None) -> Iterator[None]:
        """Embeds what is inside as that task sees it (None: the base model)."""
        self._own_projector = self.prompt_bank.projector_of(resident) if resident else {}
        try:
            if resident is None or resident.vision_mode is None:
                yield
                return
            assert self._vision_injector is not None
            rows = resident.vision_rows.unsqueeze(0).to(self.prompt_bank.rows.device)
            with self._vision_injector.using(rows, resident.vision_mode):
                yield
        finally:
            self._own_projector = {}

    def _project(self, _: nn.Module, args: tuple, __: Tensor) -> Tensor | None:
        return self.run_projector(args[0], self._own_projector) if self._own_projector else None
