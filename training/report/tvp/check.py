"""What a report can know before it trains for hours: models, judge, data, places."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from prompts.errors import ConfigError, InputError
from prompts.faults import fault
from training.data import make_source
from training.evaluate import choices_of
from training.losses import JUDGES
from training.preflight import checkpoint_faults
from training.report.digests import model_digest
from training.report.tvp.config import ReportConfig
from training.report.tvp.plan import asks_the_judge, plan_frames

__all__ = ["check", "seen_by_judge"]

_TOWER_WEIGHT = "embeddings.patch_embedding.weight"


def check(config: ReportConfig) -> None:
    """Looks at everything the config names.

    Raises:
        ConfigError: with every fault.
    """
    faults = [*_model_faults(config), *_judge_faults(config)]
    sizes: dict[str, int] = {}
    for name, task in config.tasks.items():
        for field, entry in (("train", task.train), ("test", task.test)):
            try:
                source = make_source(entry)
                example = source[0]
                if field == "train":
                    sizes[name] = len(source)
                elif task.how == "ranking" or (task.how == "structured" and not task.usage.choices):
                    choices_of(example)
            except ConfigError as error:
                faults += [f"tasks.{name}.{field}: {one}" for one in error.faults]
            except InputError as error:
                faults.append(f"tasks.{name}.{field}: {error}")
    faults += _scale_faults(config, sizes)
    if config.notes is not None and not config.notes.is_file():
        faults.append(_missing("notes", "a Markdown file", config.notes))
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        config.cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        came = f"{error.filename} ({error.strerror})"
        faults.append(fault("out, cache", expected="folders to write in", came=came, cure="name others"))
    if faults:
        raise ConfigError("report", faults)


def _model_faults(config: ReportConfig) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, folder in config.models.items():
        problems = checkpoint_faults(f"models.{name}", folder)
        yield from problems
        if problems:
            continue
        same = seen.setdefault(model_digest(folder), name)
        if same != name:
            expected, cure = "different models", "take one out: it is no black box to itself"
            yield fault(f"models.{name}", expected=expected, came=f"{same} again", cure=cure)


def _judge_faults(config: ReportConfig) -> list[str]:
    judge = _judge(config)
    return checkpoint_faults("recipe.clip", judge, *JUDGES) if judge else []


def _judge(config: ReportConfig) -> Path | None:
    """None where no frame asks it."""
    asked = any(asks_the_judge(job.method) for job in plan_frames(config))
    return config.recipe.judge if asked else None


def _scale_faults(config: ReportConfig, sizes: Mapping[str, int]) -> list[str]:
    """A share of 1 is `examples` of the task's training data, so it must have as many."""
    study = config.scale
    if study is None or study.task not in sizes or sizes[study.task] >= study.examples:
        return []
    cure = "lower it, or give the task more"
    expected = f"at most the {sizes[study.task]} examples of {study.task}"
    return [fault("scale.examples", expected=expected, came=str(study.examples), cure=cure)]


def _missing(field: str, expected: str, path: Path) -> str:
    return fault(field, expected=expected, came=f"no {path}", cure="correct the path")


def seen_by_judge(config: ReportConfig) -> frozenset[str]:
    """Models whose tower is the judge's own: TSE's gradient goes through it, so they are no black boxes.

    Told by the first weights of the towers.
    """
    judge = _judge(config)
    if judge is None:
        return frozenset()
    weights = _tower_weights(judge)
    return frozenset(name for name, folder in config.models.items() if weights & _tower_weights(folder))


def _tower_weights(folder: Path) -> set[bytes]:
    """The patch embeddings in a checkpoint, rounded to bfloat16."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (no mapping)
                if name.endswith(_TOWER_WEIGHT):
                    rounded = weights.get_tensor(name).to(torch.bfloat16)
                    found.add(rounded.view(torch.int16).numpy().tobytes())
    return found
