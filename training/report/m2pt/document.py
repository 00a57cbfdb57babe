"""Puts a report together: a Markdown file, and its pictures in a folder beside it."""

from pathlib import Path

from training.report.m2pt import tables
from training.report.m2pt.config import ReportConfig
from training.report.m2pt.results import Results
from training.report.m2pt.verdict import verdict

__all__ = ["write_report"]


def write_report(results: Results) -> Path:
    """Writes the config's `out` and its pictures; returns the file."""
    config = results.config
    config.pictures.mkdir(parents=True, exist_ok=True)
    parts = [f"# {config.title}", _method(config)]
    said = verdict(results)
    if said:
        parts += ["## Verdict", said]
    parts += ["## Tasks never seen", tables.comparison(results)]
    parts += ["## Tasks trained on", "On held-out pictures.", tables.seen(results)]
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
        f"text rows and {recipe.vision_length} vision rows a layer, mode {recipe.mode}. LoRA and prompt "
        "tuning are PEFT's. Values on disk are bfloat16.\n\n"
        f"Accuracy is on held-out pictures, answers found by {config.how}, with bootstrap 95 % intervals "
        "over seeds and pictures; where there is one seed they speak of pictures alone. Seconds and memory "
        "are of one training in a process of its own."
    )
