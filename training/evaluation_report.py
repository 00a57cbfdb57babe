"""What `passepartout evaluate` prints and writes."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from prompts.bundle import Bundle, load_bundle
from prompts.errors import BaseModelMismatchError
from prompts.fingerprint import base_model_ref
from training.backbone import Backbone, load_backbone
from training.config import EvaluateConfig
from training.data import ExampleSource
from training.evaluate import Graded, evaluate, score_of
from training.preflight import open_evaluation
from training.statistics import Score

__all__ = ["BASE", "report"]

BASE = "base model"
"""What the model without a bundle is called in the results; no bundle's name has a space in it."""


def report(config: EvaluateConfig) -> dict[str, Score]:
    """Measures, prints the table, writes `results.json` and `answers.jsonl` under `out`.

    Returns:
        Scores of `BASE` and of the bundle by its name.

    Raises:
        ConfigError: model or data do not fit the config.
        BundleError: see `prompts.bundle.load_bundle`.
        BaseModelMismatchError: the bundle was trained in another checkpoint.
    """
    source = open_evaluation(config)
    bundle = _fitting_bundle(config)
    backbone = load_backbone(config.model, dtype=config.dtype)
    answers = {BASE: _answers(config, backbone, source, None)}
    if bundle is not None:
        answers[bundle.name] = _answers(config, backbone, source, bundle)
    scores = {name: score_of(graded) for name, graded in answers.items()}
    _print(scores, config)
    if config.out is not None:
        _write(config.out, scores, answers)
    return scores


def _fitting_bundle(config: EvaluateConfig) -> Bundle | None:
    """The bundle to measure, if any: strictly loaded, and trained in this very model (a frame fits any)."""
    if config.bundle is None:
        return None
    bundle = load_bundle(config.bundle)
    trained_in = bundle.manifest.base_model
    if trained_in is not None:
        base = base_model_ref(config.model)
        for field in ("architecture", "fingerprint"):
            expected, came = getattr(base, field), getattr(trained_in, field)
            if expected != came:
                raise BaseModelMismatchError(
                    bundle.name, field=f"base_model.{field}", expected=expected, came=came
                )
    return bundle


def _answers(
    config: EvaluateConfig, backbone: Backbone, source: ExampleSource, bundle: Bundle | None
) -> list[Graded]:
    graded = evaluate(
        backbone,
        source,
        bundle=bundle,
        how=config.how,
        batch=config.batch,
        max_new_tokens=config.max_new_tokens,
    )
    return list(tqdm(graded, total=len(source), desc=bundle.name if bundle else BASE))


def _print(scores: dict[str, Score], config: EvaluateConfig) -> None:
    table = Table(title=f"{config.how}, 95 % intervals")
    for heading in ("prompt", "n", "accuracy"):
        table.add_column(heading, justify="left" if heading == "prompt" else "right")
    for name, found in scores.items():
        table.add_row(name, str(found.n), str(found))
    Console().print(table)


def _write(out: Path, scores: dict[str, Score], answers: dict[str, list[Graded]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results = {name: asdict(found) for name, found in scores.items()}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        for name, graded in answers.items():
            file.writelines(json.dumps({"prompt": name, **asdict(one)}) + "\n" for one in graded)
