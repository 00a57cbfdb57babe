"""Validation while a job runs: the best tensors are kept, and it ends when nothing gets better any more."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from prompts.bundle import Bundle
from training.backbone import LlavaBackbone
from training.config import M2ptConfig
from training.data import Example, ExampleSource
from training.evaluate import evaluate
from training.m2pt.batching import answer_total, batch_maker
from training.m2pt.learner import Learner
from training.measure import how_to_measure
from training.ranks import Ranks

__all__ = ["Watch", "measure"]

AnyLearner = TypeVar("AnyLearner", bound=Learner)


class Watch:
    """Looks at the validation figure every `validate_every` steps; without that it never does.

    Attributes:
        stopped: `patience` looks in a row brought nothing better.
    """

    def __init__(self, config: M2ptConfig, state: dict[str, Any] | None = None) -> None:
        """`state`: what `state()` gave at the checkpoint a run goes on from."""
        begun: dict[str, Any] = {"value": None, "step": None, "tensors": None, "waited": 0}
        self._config, self._best = config, state or begun

    def is_due(self, step: int) -> bool:
        """Whether to look after `step` (from 0): at intervals, and at the end."""
        every, done = self._config.validate_every, step + 1
        return every is not None and (done % every == 0 or done == self._config.steps)

    def look(self, step: int, value: float, learned: Learner) -> dict[str, float]:
        """Takes in the figure after `step`, keeps the tensors if it is the best; returns it by its name."""
        before, sign = self._best["value"], -1 if self._config.metric == "loss" else 1
        if before is None or sign * value > sign * before:
            kept = {name: tensor.clone() for name, tensor in learned.state().items()}
            self._best = {"value": value, "step": step + 1, "tensors": kept, "waited": 0}
        else:
            self._best = {**self._best, "waited": self._best["waited"] + 1}
        return {f"validation_{self._config.metric}": value}

    @property
    def stopped(self) -> bool:
        """Whether the job ends here."""
        patience = self._config.patience
        return patience is not None and self._best["waited"] >= patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self._best

    def take_best(self, learned: Learner) -> None:
        """Puts the best tensors back, where there were looks."""
        if self._best["tensors"] is not None:
            learned.load(self._best["tensors"])

    def __str__(self) -> str:
        metric, value, step = self._config.metric, self._best["value"], self._best["step"]
        return f"best validation {metric} {value:.4g} after step {step}"


def measure(
    backbone: LlavaBackbone,
    learned: AnyLearner,
    source: ExampleSource,
    ranks: Ranks,
    bundle_of: Callable[[AnyLearner], Bundle] | None,
) -> float:
    """The metric of the config on `source`: mean loss of an answer token, or the share of right answers.

    Each process measures its part; all of it where the model is shared out, since passes go in step then.

    Raises:
        PictureError: a file of the data is no picture.
        SystemExit: another process failed.
    """
    config = learned.config
    share = range(len(source)) if config.shard else ranks.part(range(len(source)))
    mine = _Part(source, share)
    with ranks.agreeing():
        if config.metric == "loss":
            total, count = _losses(backbone, learned, mine, max(1, config.batch // ranks.count))
        else:
            assert bundle_of is not None, "what makes no bundle is told metric: loss"
            total, count = _right(backbone, bundle_of(learned), mine, config), len(mine)
    if config.shard:
        return ranks.from_first(total / max(1, count))
    return ranks.total(total) / max(1.0, ranks.total(count))


def _losses(backbone: LlavaBackbone, learned: Learner, source: ExampleSource, size: int) -> tuple[float, int]:
    """Sum of the answer tokens' losses, and their number."""
    make, total, tokens = batch_maker(learned.config, backbone, learned.layout), 0.0, 0
    with torch.no_grad():
        deep = learned.deep()
        for start in range(0, len(source), size):
            places = range(start, min(start + size, len(source)))
            summed, count = answer_total(backbone, make([source[place] for place in places]), deep)
            total, tokens = total + summed.item(), tokens + count
    return total, tokens


def _right(backbone: LlavaBackbone, bundle: Bundle, source: ExampleSource, config: M2ptConfig) -> float:
    """How many answers are right, as the server will give them."""
    if not len(source):
        return 0.0
    how = how_to_measure(config, source)
    return float(
        sum(one.right for one in evaluate(backbone, source, bundle=bundle, how=how, batch=config.batch))
    )


class _Part:
    """Some of a source's examples."""

    def __init__(self, source: ExampleSource, places: Sequence[int]) -> None:
        self._source, self._places = source, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Example:
        return self._source[self._places[index]]
