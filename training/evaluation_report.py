"""What `passepartout evaluate` prints and writes."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from prompts.bundle import Bundle, load_bundle
from prompts.errors import BaseModelMismatchError
from prompts.fingerprint import base_model_ref
from training.backbone import load_backbone
from training.config import EvaluateConfig
from training.data import ExampleSource
from training.evaluate import Graded, evaluate, score_of
from training.preflight import open_evaluation
from training.served import ServedModel
from training.served_evaluation import evaluate_served
from training.statistics import Score

__all__ = ["BASE", "KEY_VARIABLE", "report"]

KEY_VARIABLE = "PASSEPARTOUT_API_KEY"
"""Environment variable of a server's key: no config file has one."""

BASE = "base model"
"""What the model without a bundle is called in the results; no bundle's name has a space in it."""


def report(config: EvaluateConfig) -> dict[str, Score]:
    """Measures, prints the table, writes `results.json` and `answers.jsonl` under `out`.

    Returns:
        Scores of `BASE` and of the bundle or task by its name.

    Raises:
        ConfigError: model, server or data do not fit the config.
        BundleError: see `prompts.bundle.load_bundle`.
        BaseModelMismatchError: the bundle was trained in another checkpoint.
    """
    source = open_evaluation(config)
    answers = dict(_of_model(config, source) if config.server is None else _of_server(config, source))
    scores = {name: score_of(graded) for name, graded in answers.items()}
    _print(scores, config)
    if config.out is not None:
        _write(config.out, scores, answers)
    return scores


def _of_model(config: EvaluateConfig, source: ExampleSource) -> Iterator[tuple[str, list[Graded]]]:
    """The answers of the checkpoint, and of it under the bundle."""
    assert config.model is not None
    bundle = _fitting_bundle(config.model, config.bundle)
    backbone = load_backbone(config.model, dtype=config.dtype)
    for one in [None, bundle] if bundle else [None]:
        name = one.name if one else BASE
        graded = evaluate(
            backbone,
            source,
            bundle=one,
            how=config.how,
            batch=config.batch,
            max_new_tokens=config.max_new_tokens,
        )
        yield name, list(tqdm(graded, total=len(source), desc=name))


def _of_server(config: EvaluateConfig, source: ExampleSource) -> Iterator[tuple[str, list[Graded]]]:
    """The answers of a server's base model, and of its task."""
    assert config.server is not None
    key = os.environ.get(KEY_VARIABLE)
    for task in [None, config.task] if config.task else [None]:
        name = task or BASE
        with ServedModel(config.server, task=task, model=config.served_model, api_key=key) as served:
            graded = evaluate_served(served, source, how=config.how, max_new_tokens=config.max_new_tokens)
            yield name, list(tqdm(graded, total=len(source), desc=name))


def _fitting_bundle(model: Path, folder: Path | None) -> Bundle | None:
    """The bundle to measure, if any: strictly loaded, and trained in this very model (a frame fits any)."""
    if folder is None:
        return None
    bundle = load_bundle(folder)
    trained_in = bundle.manifest.base_model
    if trained_in is not None:
        base = base_model_ref(model)
        for field in ("architecture", "fingerprint"):
            expected, came = getattr(base, field), getattr(trained_in, field)
            if expected != came:
                raise BaseModelMismatchError(
                    bundle.name, field=f"base_model.{field}", expected=expected, came=came
                )
    return bundle


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
