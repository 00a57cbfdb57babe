"""The processes of one job: one alone, or those that torchrun started side by side.

    torchrun --nproc-per-node 8 -m passepartout train m2pt --config FILE

Each holds the model (or a share of it) and takes its part of every batch; gradients of the learned tensors
are summed. On GPUs they travel by NCCL, all else by Gloo, which does everything on a CPU. A fault in one
process ends all of them, with that one's error.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["ALONE", "Ranks", "open_ranks", "ranks_here"]

_STATUS = 1
"""Of a process that ends because another one failed."""
_PATIENCE = timedelta(hours=12)
"""With a process that works alone (the first one measures the bundle); a dead one is noticed at once."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job: number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes logs, checkpoints and the bundle, and talks."""
        return self.rank == 0

    def part(self, whole: Sequence[Item]) -> Sequence[Item]:
        """This process's slice; all slices are the whole, in order, as long as each other or one less."""
        bounds = [len(whole) * number // self.count for number in (self.rank, self.rank + 1)]
        return whole[bounds[0] : bounds[1]]

    def wait(self) -> None:
        """Comes back when every process has come here."""
        self._totals([0.0])

    def total(self, value: float) -> float:
        """The sum of every process's value."""
        return self._totals([value])[0]

    def any(self, flag: bool) -> bool:
        """Whether one of them says so."""
        return self.total(flag) > 0

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """A stretch of work that ends well in every process or in none.

        All must come to its end, so nothing inside may wait for one that may have failed. Where it fails,
        the first process that it failed in raises its own error; the others raise SystemExit, silently.
        """
        if self.count == 1:
            yield
            return
        problem = None
        try:
            yield
        except Exception as error:
            problem = error
        failed = self._totals([float(problem is not None and self.rank == n) for n in range(self.count)])
        if problem is not None and failed.index(1.0) == self.rank:
            raise problem
        if any(failed):
            raise SystemExit(_STATUS)

    def add_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Sums each tensor's gradient over the processes, in place; one that none of them has stays None."""
        if self.count == 1:
            return
        listed = list(tensors)
        for tensor, owners in zip(listed, self._totals([t.grad is not None for t in listed]), strict=True):
            if owners:
                tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                self._call(dist.all_reduce, tensor.grad)

    @torch.no_grad()
    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Puts the first process's values into every process's tensors."""
        if self.count > 1:
            for tensor in tensors:
                self._call(dist.broadcast, tensor.detach(), src=0)

    def from_first(self, value: Item) -> Item:
        """The first process's value, whatever the others gave."""
        if self.count == 1:
            return value
        held = [value]
        self._call(dist.broadcast_object_list, held, src=0, device=torch.device("cpu"))
        return held[0]

    def _totals(self, values: Sequence[float]) -> list[float]:
        if self.count == 1:
            return [float(value) for value in values]
        summed = torch.tensor(values, dtype=torch.float64)
        self._call(dist.all_reduce, summed)
        found: list[float] = summed.tolist()
        return found

    def _call(self, collective: Any, *given: Any, **settings: Any) -> None:
        """Ends this process with one line where another is gone without a word (killed, out of memory)."""
        try:
            collective(*given, **settings)
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise SystemExit(f"process {self.rank}: another process of this job is gone ({why})") from error


ALONE = Ranks()


def ranks_here() -> Ranks:
    """What torchrun told this process in its environment; alone without it."""
    return Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Joins the processes that torchrun started, each with a GPU of its own where there are any.

    Inside another `open_ranks` it is the same group. After an error the group is left as it is: closing it
    would wait for the others.
    """
    ranks = ranks_here()
    if ranks.count == 1 or dist.is_initialized():
        yield ranks
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_PATIENCE)
    yield ranks
    ranks.wait()
    dist.destroy_process_group()
