"""The figures a trainer writes into its bundle: validation accuracy without and with what it learned."""

from dataclasses import asdict

from pydantic import JsonValue

from prompts.bundle import Bundle
from training.backbone import Backbone
from training.config import TrainConfig
from training.data import ExampleSource
from training.evaluate import How, evaluate, score_of

__all__ = ["how_to_measure", "validation_metrics"]


def how_to_measure(config: TrainConfig, source: ExampleSource) -> How:
    """As the server will answer: structured where the task has choices, else generation.

    Examples with choices and a task without are ranked.
    """
    if config.usage.choices:
        return "structured"
    return "ranking" if source[0].choices else "generation"


def validation_metrics(
    config: TrainConfig, backbone: Backbone, bundle: Bundle, source: ExampleSource | None
) -> dict[str, JsonValue]:
    """Accuracy on the validation data, see `how_to_measure`; {} without such data."""
    if source is None:
        return {}
    how = how_to_measure(config, source)
    base = score_of(
        list(evaluate(backbone, source, how=how, batch=config.batch, choices=config.usage.choices))
    )
    tuned = score_of(list(evaluate(backbone, source, bundle=bundle, how=how, batch=config.batch)))
    print(f"{config.name}: validation accuracy {base} without, {tuned} with the prompt (n = {tuned.n})")
    return {"validation": {"measure": how, "base": asdict(base), "task": asdict(tuned)}}
