"""What a family says of its model, and the mixin that makes a vLLM model class take learned prompts.

Written for vLLM 0.32: `embed_multimodal` and `embed_input_ids` are called alike by model runners V1 and V2,
the latter once for each step before the forward pass.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from server.engine.bank import PromptBank, Resident
from server.engine.facts import Capacity, EngineFacts
from server.engine.heads import HeadSwitch
from server.engine.injection import inject_text_prompts
from server.engine.items import PICTURE_TICKET_FIELD, PROMPT_ROWS_FIELD, PROMPT_TICKET_FIELD
from server.engine.prefixes import KvLayout, find_kv_layout, inject_prefixes
from server.engine.refusals import check_config, find_frame_refusal, salt_compile_cache
from server.engine.tiers import WorkerTiers
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
        vision, kv = self.find_vision(), self._find_kv(vllm_config)
        self.prompt_facts = self._find_facts(vllm_config, vision, kv, capacity)
        self.prompt_bank = PromptBank(
            self.prompt_facts,
            max_step_tokens=vllm_config.scheduler_config.max_num_batched_tokens,
            dtype=vllm_config.model_config.dtype,
            device=next(self.parameters()).device,
            kv=None if isinstance(kv, str) else kv,
        )
        self.prompt_tiers = WorkerTiers(self.prompt_bank, self.prompt_facts, host_tasks=capacity.host_tasks)
        inject_text_prompts(self.find_decoder_layers(), self.prompt_bank)
        if self.prompt_bank.prefix is not None and not isinstance(kv, str):
            inject_prefixes(kv, self.prompt_bank.prefix)
        self._vision_injector = self._inject_vision(vision)
        self.prompt_heads = HeadSwitch(self.prompt_bank)

    # What a family says ---------------------------------------------------------------------------------

    @abstractmethod
    def find_decoder_layers(self) -> Sequence[nn.Module]:
        """All layers of the language model, in order."""

    def find_vision(self) -> VisionLayout | str:
        """The vision encoder, or why this model takes no vision prompts."""
        return "vision prompts do not work with this model family"

    def find_projector(self) -> dict[str, tuple[int, ...]] | str:
        """Parameter name -> shape of the projector that a task may bring its own of, or why it may not."""
        return "a task cannot bring its own projector to this model family"

    def count_embedding_width(self) -> int:
        """Values of one token among the embeddings that vLLM merges into its input: the decoder's width."""
        return self.prompt_facts.text_hidden

    # What a family says too, if it takes vision prompts or projectors --------------------------------------

    def count_image_tokens(self) -> int:
        """Tokens a picture takes in the base model; 0 where no prompt adds any (no mode `released`)."""
        return 0

    def encode_pictures(self, **kwargs: object) -> Tensor:
        """Selected features before the projector, (B, N, d_v), of a batch of pictures.

        A family that takes its pictures by `StockPictures` needs neither this nor `project_features`.
        """
        raise NotImplementedError

    def project_features(self, features: Tensor, projector: Mapping[str, Tensor]) -> Tensor:
        """(B, N, d_v) -> (B, N, d), through a task's own projector or, where that is empty, the model's."""
        raise NotImplementedError

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
        if all(one is None or (one.place is None and not len(one.vision_rows)) for one in residents):
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
        self.prompt_heads.begin_step()
        if multimodal_embeddings is not None and is_multimodal is not None:
            multimodal_embeddings = self._mark_prompts(multimodal_embeddings, is_multimodal)
        return super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """As vLLM's; a task with an lm_head of its own gets its own logits."""
        logits = super().compute_logits(hidden_states)  # type: ignore[misc]
        return self.prompt_heads.replace(hidden_states, logits)

    def _mark_prompts(self, embeddings: Any, is_multimodal: Tensor) -> list[Tensor]:
        """Takes the handles out of `embeddings` (in the order of the tokens `is_multimodal` (T,) names)."""
        if not any(_is_handles(one) for one in embeddings):
            return list(embeddings)
        places = is_multimodal.cpu().nonzero().squeeze(1)
        taken, filled, first = [], [], 0
        for one in embeddings:
            if _is_handles(one):
                taken.append((places[first : first + len(one)], one))
                one = self.prompt_bank.text.vectors.new_zeros(len(one), self.count_embedding_width())
            filled.append(one)
            first += len(one)
        self.prompt_bank.set_step(torch.cat([at for at, _ in taken]), torch.cat([one for _, one in taken]))
        return filled

    def _embed_pictures(self, residents: Sequence[Resident | None], kwargs: dict[str, Any]) -> list[Tensor]:
        """Encodes a batch of pictures, those of like vision prompts together; each (N, d)."""
        groups: dict[tuple[int, str | None], list[int]] = {}
        for index, one in enumerate(residents):
            key = (len(one.vision_rows), one.vision_mode) if one and len(one.vision_rows) else (0, None)
            groups.setdefault(key, []).append(index)
        embedded: dict[int, Tensor] = {}
        for (_, mode), members in groups.items():
            batch = {name: _select(value, members) for name, value in kwargs.items()}
            features = self._encode([residents[index] for index in members], mode, batch)
            for index, own in zip(members, features, strict=True):
                resident = residents[index]
                projector = self.prompt_bank.projector_of(resident) if resident else {}
                embedded[index] = self.project_features(own.unsqueeze(0), projector)[0]
        return [embedded[index] for index in range(len(residents))]

    def _encode(
        self, residents: Sequence[Resident | None], mode: str | None, batch: dict[str, Any]
    ) -> Tensor:
        if mode is None:
            return self.encode_pictures(**batch)
        assert self._vision_injector is not None
        rows = torch.stack([one.vision_rows for one in residents if one is not None])
        with self._vision_injector.using(rows.to(self.prompt_bank.rows.device), mode):
            return self.encode_pictures(**batch)

    # The start ------------------------------------------------------------------------------------------

    def _find_kv(self, vllm_config: Any) -> KvLayout | str:
        return find_kv_layout(
            self.find_decoder_layers(),
            total_heads=vllm_config.model_config.get_total_num_kv_heads(),
            rank=get_tensor_model_parallel_rank(),
            ranks=get_tensor_model_parallel_world_size(),
        )

    def _find_facts(
        self, vllm_config: Any, vision: VisionLayout | str, kv: KvLayout | str, capacity: Capacity
    ) -> EngineFacts:
        scheduler, model = vllm_config.scheduler_config, vllm_config.model_config
        budget = min(scheduler.max_num_encoder_input_tokens, scheduler.encoder_cache_size)
        longest = min(budget, model.max_model_len - 1)
        layout = None if isinstance(vision, str) else vision
        text_layers, vision_layers = len(self.find_decoder_layers()), layout.total_layers if layout else 0
        projector = self.find_projector()
        refusals = {
            "prefix": kv if isinstance(kv, str) else None,
            "vision": vision if isinstance(vision, str) else None,
            "vision.mode": layout.released_refusal if layout else None,
            "projector": projector if isinstance(projector, str) else None,
            "lm_head": self._refuse_heads(vllm_config),
            "frame": find_frame_refusal(model),
        }
        return EngineFacts(
            model=model.model,
            text_layers=text_layers,
            text_hidden=model.get_hidden_size(),
            vision_layers=vision_layers,
            vision_hidden=layout.hidden if layout else 0,
            projector={} if isinstance(projector, str) else projector,
            lm_head=(model.get_vocab_size(), model.get_hidden_size()),
            max_text_length=longest,
            max_vision_length=max(longest - self.count_image_tokens(), 0) if layout else 0,
            prefix=(0, 0) if isinstance(kv, str) else (kv.total_heads, kv.head_dim),
            room=capacity.room(
                text_layers=text_layers,
                vision_layers=vision_layers,
                takes_prefixes=not isinstance(kv, str),
            ),
            refusals={part: why for part, why in refusals.items() if why is not None},
        )

    def _refuse_heads(self, vllm_config: Any) -> str | None:
        """Why tasks cannot bring an lm_head of their own, None where they can."""
        if vllm_config.use_v2_model_runner:
            return "it needs vLLM's model runner V1: set VLLM_USE_V2_MODEL_RUNNER=0"
        if vllm_config.speculative_config is not None:
            return "it does not work with speculative decoding: leave --speculative-config out"
        processors = [one for one in self.modules() if isinstance(one, LogitsProcessor)]
        if any(one.scale != 1.0 or one.soft_cap is not None for one in processors):
            return "this model scales its logits, and an lm_head per task does not know that"
        return None

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
    return embedding.dtype == torch.int64 and embedding.shape[-1] == 2


def _read_tickets(tickets: Any) -> list[tuple[int, int]]:
    """(slot, digest head) of each item of a batch."""
    lines = tickets if isinstance(tickets, Tensor) else torch.stack(list(tickets))
    return [(slot, head) for slot, head in lines.reshape(-1, 2).tolist()]


def _select(value: Any, members: list[int]) -> Any:
    return value[members] if isinstance(value, Tensor) else [value[index] for index in members]
