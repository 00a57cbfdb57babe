"""Puts a report together: a Markdown file, and its pictures in a folder beside it."""

import json
from pathlib import Path

from training.report.m2pt import figures, tables
from training.report.m2pt.config import COMPONENTS, RecipeConfig, ReportConfig
from training.report.m2pt.results import Results
from training.report.m2pt.verdict import verdict
from training.statistics import Score

__all__ = ["write_report"]


def write_report(results: Results) -> Path:
    """Writes the config's `out` and its pictures; returns the file."""
    config = results.config
    config.pictures.mkdir(parents=True, exist_ok=True)
    parts = [f"# {config.title}", _method(config)]
    said = verdict(results)
    if said:
        parts += ["## Verdict", said]
    parts += ["## Tasks never seen", tables.comparison(results), _over_values(results)]
    parts += ["## Tasks trained on", "On held-out pictures.", tables.seen(results)]
    parts += ["## What each part is worth", _components(results)]
    if config.lengths is not None:
        parts += ["## How many rows", _lengths(results)]
    if results.looks:
        parts += ["## Where the answer looks from", *_looks(results)]
    parts += ["## The methods", tables.methods(results)]
    if config.notes is not None:
        parts.append(config.notes.read_text(encoding="utf-8").strip())
    config.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return config.out


def _method(config: ReportConfig) -> str:
    recipe = config.recipe
    return (
        f"One model, {config.model.name}; every method is trained on the same examples in the same order, "
        f"in M²PT's own loop: {recipe.steps} steps of batch {recipe.batch * recipe.accumulate}, AdamW, "
        f"cosine, a learning rate of its own, {len(config.seeds)} seed(s). M²PT has {recipe.text_length} "
        f"text rows and {recipe.vision_length} vision rows a layer, mode {recipe.mode}; {_begun(recipe)}. "
        "LoRA and prompt tuning are PEFT's. Values on disk are bfloat16.\n\n"
        f"Accuracy is on held-out pictures, answers found by {config.how}, with bootstrap 95 % intervals "
        "over seeds and pictures; where there is one seed they speak of pictures alone. Seconds (shortest to "
        "longest) and memory are of one training in a process of its own."
    )


def _begun(recipe: RecipeConfig) -> str:
    if recipe.init_text is None:
        return "text rows begin at random"
    return f"text rows, and those of prompt tuning, begin as the text {json.dumps(recipe.init_text)}"


def _over_values(results: Results) -> str:
    config, unseen = results.config, list(results.config.unseen)
    trained = [method for method in config.methods if method != "none"]
    points: dict[str, tuple[int, Score]] = {
        method: (results.values(method), results.score(method, unseen)) for method in trained
    }
    levels = {"the model as it is": results.score("none", unseen).accuracy}
    if results.guessing:
        levels["guessing"] = results.guess(unseen)
    figures.over_values(points, config.pictures / "values.png", levels)
    return _picture(config, "Accuracy on unseen tasks over the number of trained values", "values.png")


def _components(results: Results) -> str:
    config = results.config
    chosen = [method for method in COMPONENTS if method in config.methods]
    scores: dict[str, dict[str, Score]] = {
        kind: {method: results.score(method, list(tasks)) for method in chosen}
        for kind, tasks in (("unseen", config.unseen), ("seen", config.seen))
    }
    guessing = dict[str, float]()
    if results.guessing:
        guessing = {"unseen": results.guess(config.unseen), "seen": results.guess(config.seen)}
    figures.bars(scores, config.pictures / "components.png", guessing)
    return _picture(config, "Accuracy with each part of M²PT alone, and together", "components.png")


def _lengths(results: Results) -> str:
    config, study = results.config, results.config.lengths
    assert study is not None
    unseen = list(config.unseen)
    grid = [
        [results.score("m2pt", unseen, (text, vision)).accuracy for vision in study.vision]
        for text in study.text
    ]
    figures.length_map(grid, study.text, study.vision, config.pictures / "lengths.png")
    seeds = len(study.seeds or config.seeds[:1])
    return (
        f"M²PT with other numbers of rows, all from tokens of the vocabulary at random; {seeds} seed(s). "
        "Differences of less than an interval mean nothing.\n\n"
        + _picture(config, "Accuracy on unseen tasks over the numbers of rows", "lengths.png")
        + "\n\n"
        + tables.lengths(results)
    )


def _looks(results: Results) -> list[str]:
    """The shares of all pictures together, then each picture."""
    config, parts = results.config, list[str]()
    parts.append(
        "Attention of the last row of the question, from which the first token of the answer is read, in the "
        "last layers, the mean over heads: over the picture (each layer to its own scale), over the learned "
        "rows (t: text; v: what stands before the patches) and over the tokens of the question."
    )
    parts.append(tables.looks([one.look for one in results.looks]))
    for number, one in enumerate(results.looks, start=1):
        name = f"attention-{number}.png"
        title = f"{one.task}: {one.question} – wanted: {one.wanted} – said: {one.said}"
        figures.attention(one.look, title, config.pictures / name)
        parts.append(_picture(config, title, name))
    return parts


def _picture(config: ReportConfig, title: str, name: str) -> str:
    """As Markdown; the path is from the report."""
    plain = " ".join(title.split()).replace("[", "(").replace("]", ")")
    return f"![{plain}]({config.pictures.name}/{name})"
