"""Output layers of tasks: logits of the requests whose task brings an `lm_head` of its own.

The language model does not know whose token it is at, so the worker's model runner is asked. Written for vLLM
0.32's model runner V1, without drafts: `compute_logits` is called once a step with one row for each request,
in the order of `runner.input_batch.req_ids`, and then again for each request with prompt logprobs; of
`runner.requests[id].mm_features` the learned prompt's `identifier` is read, which ends in its cache key.

With tensor parallelism vLLM gathers the logits of the whole vocabulary on every rank (on some platforms on
the first alone; the others have None). An lm_head lies whole on each, and each makes the same logits.

N: requests of the step; d: width; V: vocabulary.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional
from vllm.utils.torch_utils import async_tensor_h2d

from server.engine.bank import PromptBank
from server.engine.items import MODALITY, RESERVED_HASH_PREFIX, read_cache_key

__all__ = ["HeadSwitch"]


class HeadSwitch:
    """Puts tasks' own logits in the place of the model's. `runner`: vLLM's, once a worker has told."""

    def __init__(self, bank: PromptBank) -> None:
        self._bank = bank
        self._is_sampling = False
        self.runner: Any = None

    def begin_step(self) -> None:
        """Said before each step: the next logits are those that tokens are sampled from."""
        self._is_sampling = True

    def replace(self, hidden: Tensor, logits: Tensor | None) -> Tensor | None:
        """`hidden` (N, d), the model's `logits` (N, V), None on a rank that has none -> logits (N, V).

        Raises:
            EngineError: the task of a request is not resident any more.
        """
        is_sampling, self._is_sampling = self._is_sampling, False
        if logits is None or not is_sampling or self.runner is None or not self._bank.has_heads:
            return logits
        for place, rows in self._rows_by_head().items():
            at = async_tensor_h2d(rows, device=hidden.device)
            states, weight = hidden[at].to(logits.dtype), self._bank.head_at(place).to(logits.dtype)
            logits[at] = functional.linear(states, weight)[:, : logits.shape[1]]
        return logits

    def _rows_by_head(self) -> dict[int, list[int]]:
        """Place of the head -> rows of the step that want it."""
        batch = self.runner.input_batch
        rows: dict[int, list[int]] = {}
        for row, request in enumerate(batch.req_ids[: batch.num_reqs]):
            place = self._head_of(self.runner.requests[request].mm_features)
            if place is not None:
                rows.setdefault(place, []).append(row)
        return rows

    def _head_of(self, features: Any) -> int | None:
        for feature in features:
            if feature.modality == MODALITY:
                key = feature.identifier.rpartition(RESERVED_HASH_PREFIX)[2]
                return self._bank.admit(*read_cache_key(key)).head_place
        return None
