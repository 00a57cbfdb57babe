"""How well a running server answers: as `training.evaluate`, without a model of one's own."""

from collections.abc import Iterator
from itertools import tee

from training.config import How
from training.data import Example, ExampleSource, iterate_source
from training.evaluate import Graded, choices_of, grade
from training.served import ServedModel

__all__ = ["evaluate_served"]


def evaluate_served(
    served: ServedModel,
    source: ExampleSource,
    *,
    how: How = "ranking",
    max_new_tokens: int = 16,
    choices: tuple[str, ...] | None = None,
) -> Iterator[Graded]:
    """Answers every example in order; yields them as they come. The arguments mean what they mean there.

    Raises:
        ConfigError: `ranking` or `structured`, and an example without choices; and see `ServedModel.connect`.
        UnsupportedError, InputError, EngineError: see `ServedModel.score_choices`.
    """
    asked, examples = tee(iterate_source(source))
    said = _answers(served, asked, how, max_new_tokens, choices)
    yield from (grade(example, one) for example, one in zip(examples, said, strict=True))


def _answers(
    served: ServedModel,
    examples: Iterator[Example],
    how: How,
    max_new_tokens: int,
    choices: tuple[str, ...] | None,
) -> Iterator[str]:
    if how == "structured":
        return served.structured(examples, choices)
    if how == "generation":
        return served.generate(examples, max_new_tokens)
    ranked, examples = tee(examples)
    return (
        max(zip(scores, choices_of(example), strict=True), key=lambda pair: pair[0])[1]
        for scores, example in zip(served.score_choices(ranked), examples, strict=True)
    )
