"""What `passepartout evaluate` prints and writes."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from prompts.bundle import Bundle, load_bundle
from training.backbone import LlavaBackbone
from training.config import EvaluateConfig
from training.data import make_source
from training.evaluate import Graded, evaluate, score_of
from training.statistics import Score

__all__ = ["report"]


def report(config: EvaluateConfig) -> dict[str, Score]:
    """Measures, prints the table, writes `results.json` and `answers.jsonl` under `out`; returns the scores."""
    backbone = LlavaBackbone.load(config.model, dtype=config.dtype)
    bundles: list[Bundle | None] = [None]
    if config.bundle is not None:
        bundles.append(load_bundle(config.bundle))
    answers = {bundle.name if bundle else "base": _answers(config, backbone, bundle) for bundle in bundles}
    scores = {name: score_of(graded) for name, graded in answers.items()}
    _print(scores, config)
    if config.out is not None:
        _write(config.out, scores, answers)
    return scores


def _answers(config: EvaluateConfig, backbone: LlavaBackbone, bundle: Bundle | None) -> list[Graded]:
    source = make_source(config.data)
    graded = evaluate(
        backbone,
        source,
        bundle=bundle,
        how=config.how,
        batch=config.batch,
        max_new_tokens=config.max_new_tokens,
    )
    return list(tqdm(graded, total=len(source), desc=bundle.name if bundle else "base"))


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
