"""What a family says of its model, and the mixin that makes a vLLM model class take learned prompts.

Written for vLLM 0.32: `embed_multimodal` and `embed_input_ids` are called alike by model runners V1 and V2,
the latter once for each step before the forward pass.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prompts.bundle import load_bundle
from prompts.errors import BundleError, EngineError
from server.engine.bank import PromptBank, Resident
from server.engine.facts import EngineFacts, find_misfits
from server.engine.injection import inject_text_prompts
from server.engine.items import PICTURE_TICKET_FIELD, PROMPT_ROWS_FIELD, PROMPT_TICKET_FIELD
from server.engine.refusals import check_config, find_frame_refusal, salt_compile_cache
from server.engine.vision import VisionInjector

__all__ = ["PromptedModel", "VisionLayout", "run_mlp_projector"]


@dataclass(frozen=True)
class VisionLayout:
    """A vision encoder as vLLM built it.

    `layers` may be fewer than `total_layers`: vLLM builds only those the features need. `released_refusal`:
    why mode `released` is not served, None where it is.
    """

    encoder: nn.Module
    layers: Sequence[nn.Module]
    hidden: int
    total_layers: int
    released_refusal: str | None = None


class PromptedModel(nn.Module):
    """Mixin in front of a vLLM multimodal model class."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        check_config(vllm_config)
        capacity = salt_compile_cache(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        vision = self.find_vision()
        self.prompt_facts = self._find_facts(vllm_config, vision, vars(capacity))
        self.prompt_bank = PromptBank(
            self.prompt_facts,
            max_step_tokens=vllm_config.scheduler_config.max_num_batched_tokens,
            dtype=vllm_config.model_config.dtype,
            device=next(self.parameters()).device,
        )
        inject_text_prompts(self.find_decoder_layers(), self.prompt_bank)
        self._vision_injector = self._inject_vision(vision)

    # What a family says ---------------------------------------------------------------------------------

    @abstractmethod
    def find_decoder_layers(self) -> Sequence[nn.Module]:
        """All layers of the language model, in order."""

    def find_vision(self) -> VisionLayout | str:
        """The vision encoder, or why this model takes no vision prompts."""
        return "this family takes no vision prompts"

    def find_projector(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape of the projector that a task may bring its own of; empty where none may."""
        return {}

    def count_image_tokens(self) -> int:
        """Tokens a picture takes in the base model; 0 where no prompt adds any (no mode `released`)."""
        return 0

    @abstractmethod
    def encode_pictures(self, **kwargs: object) -> Tensor:
        """Selected features before the projector, (B, N, d_v), of a batch of pictures.

        A family that takes its pictures by `StockPictures` needs neither this nor `project_features`.
        """

    @abstractmethod
    def project_features(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        """(B, N, d_v) -> (B, N, d), through a task's own projector or, where that is empty, the model's."""

    # Residents ------------------------------------------------------------------------------------------

    def load_prompts(self, path: str, digest: str) -> Resident:
        """Reads the bundle at `path` and makes it resident.

        Raises:
            EngineError: the folder holds something else by now, or something that does not fit.
            CapacityError: no room.
        """
        known = self.prompt_bank.find(digest)
        if known is not None:
            known.loads += 1
            return known
        try:
            bundle = load_bundle(Path(path))
        except BundleError as error:
            raise EngineError(f"{path} cannot be loaded any more: {error}") from error
        if bundle.digest != digest:
            raise EngineError(f"{path} changed: expected digest {digest}, came {bundle.digest}")
        if misfits := find_misfits(bundle, self.prompt_facts):
            raise EngineError(f"{path} does not fit: {'; '.join(misfits)}")
        return self.prompt_bank.load(bundle)

    # A step ---------------------------------------------------------------------------------------------

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """As vLLM's, and for learned prompts their handles: int64 (P, 2) on the CPU, see `items`."""
        rows = kwargs.pop(PROMPT_ROWS_FIELD, None)
        prompt_tickets = kwargs.pop(PROMPT_TICKET_FIELD, None)
        picture_tickets = kwargs.pop(PICTURE_TICKET_FIELD, None)
        if rows is not None:
            for slot, head in _read_tickets(prompt_tickets):
                if slot:
                    self.prompt_bank.admit(slot, head)
            return list(rows)
        tickets = [] if picture_tickets is None else _read_tickets(picture_tickets)
        residents = [self.prompt_bank.admit(slot, head) if slot else None for slot, head in tickets]
        if all(one is None or not (one.vision_length or one.projector) for one in residents):
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        return self._embed_pictures(residents, kwargs)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """As vLLM's, and marks the step's prompt tokens in the bank; layer 0 overwrites their zeros."""
        self.prompt_bank.clear_step()
        if multimodal_embeddings is not None and is_multimodal is not None:
            multimodal_embeddings = self._mark_prompts(multimodal_embeddings, is_multimodal)
        return super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )

    def _mark_prompts(self, embeddings: Any, is_multimodal: Tensor) -> list[Tensor]:
        """Takes the handles out of `embeddings` (in the order of the tokens `is_multimodal` (T,) names)."""
        if not any(_is_handles(one) for one in embeddings):
            return list(embeddings)
        places = is_multimodal.cpu().nonzero().squeeze(1)
        taken, filled, first = [], [], 0
        for one in embeddings:
            if _is_handles(one):
                taken.append((places[first : first + len(one)], one))
                one = self.prompt_bank.text.new_zeros(len(one), self.prompt_facts.text_hidden)
            filled.append(one)
            first += len(one)
        self.prompt_bank.set_step(torch.cat([at for at, _ in taken]), torch.cat([one for _, one in taken]))
        return filled

    def _embed_pictures(self, residents: Sequence[Resident | None], kwargs: dict[str, Any]) -> list[Tensor]:
        """Encodes a batch of pictures, those of like vision prompts together; each (N, d)."""
        groups: dict[tuple[int, str | None], list[int]] = {}
        for index, one in enumerate(residents):
            key = (one.vision_length, one.vision_mode) if one and one.vision_length else (0, None)
            groups.setdefault(key, []).append(index)
        embedded: dict[int, Tensor] = {}
        for (length, mode), members in groups.items():
            batch = {name: _select(value, members) for name, value in kwargs.items()}
            features = self._encode([residents[index] for index in members], length, mode, batch)
            for index, own in zip(members, features, strict=True):
                resident = residents[index]
                projector = resident.projector if resident else {}
                embedded[index] = self.project_features(own.unsqueeze(0), projector)[0]
        return [embedded[index] for index in range(len(residents))]

    def _encode(
        self, residents: Sequence[Resident | None], length: int, mode: str | None, batch: dict[str, Any]
    ) -> Tensor:
        if mode is None:
            return self.encode_pictures(**batch)
        assert self._vision_injector is not None
        starts = torch.tensor([one.vision_row0 for one in residents if one is not None])
        rows = (starts.unsqueeze(1) + torch.arange(length)).to(self.prompt_bank.vision.device)
        with self._vision_injector.using(rows, mode):
            return self.encode_pictures(**batch)

    # The start ------------------------------------------------------------------------------------------

    def _find_facts(self, vllm_config: Any, vision: VisionLayout | str, room: dict[str, int]) -> EngineFacts:
        scheduler, model = vllm_config.scheduler_config, vllm_config.model_config
        budget = min(scheduler.max_num_encoder_input_tokens, scheduler.encoder_cache_size)
        longest = min(budget, model.max_model_len - 1)
        layout = None if isinstance(vision, str) else vision
        return EngineFacts(
            model=model.model,
            text_layers=len(self.find_decoder_layers()),
            text_hidden=model.get_hidden_size(),
            vision_layers=layout.total_layers if layout else 0,
            vision_hidden=layout.hidden if layout else 0,
            vision_refusal=vision if isinstance(vision, str) else None,
            projector=self.find_projector(),
            max_text_length=longest,
            max_vision_length=max(longest - self.count_image_tokens(), 0),
            released_refusal=layout.released_refusal if layout else None,
            frame_refusal=find_frame_refusal(model),
            **room,
        )

    def _inject_vision(self, vision: VisionLayout | str) -> VisionInjector | None:
        if isinstance(vision, str):
            return None
        ran = len(vision.layers)
        output_layer = ran if ran < vision.total_layers else None
        return VisionInjector(vision.encoder, vision.layers, self.prompt_bank, output_layer=output_layer)


def run_mlp_projector(features: Tensor, projector: Mapping[str, Tensor], activation: nn.Module) -> Tensor:
    """LLaVA's projector `linear_1`, activation, `linear_2` on a task's own weights, whole on every rank."""
    hidden = functional.linear(features, projector["linear_1.weight"], projector.get("linear_1.bias"))
    return functional.linear(activation(hidden), projector["linear_2.weight"], projector.get("linear_2.bias"))


def _is_handles(embedding: Tensor) -> bool:
    return embedding.dtype == torch.int64


def _read_tickets(tickets: Any) -> list[tuple[int, int]]:
    """(slot, digest head) of each item of a batch."""
    lines = tickets if isinstance(tickets, Tensor) else torch.stack(list(tickets))
    return [(slot, head) for slot, head in lines.reshape(-1, 2).tolist()]


def _select(value: Any, members: list[int]) -> Any:
    return value[members] if isinstance(value, Tensor) else [value[index] for index in members]
