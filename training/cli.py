"""The offline commands: `passepartout train`, `passepartout evaluate` and `passepartout model`."""

import argparse
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from prompts.errors import ConfigError
from prompts.faults import fault
from training.config import BaselineConfig, EvaluateConfig, M2ptConfig, TrainConfig, TvpConfig, read_config
from training.config.fields import field_line
from training.memory import keep_freed_memory
from training.ranks import ranks_here

__all__ = ["main_evaluate", "main_model", "main_train"]

_MODEL_COMMANDS = {
    "build": ("training.pico.build", "assemble an embedded model, offline, in under a minute"),
    "train": ("training.pico.recipe", "make its weights from pictures (an hour or two on 2 cores)"),
}


_BY_METHOD = ("lr", "warmup")
"""Shared fields whose default is each method's own."""


def main_train(argv: list[str]) -> int:
    """`passepartout train tvp|m2pt|baseline --config FILE [--set key=value]`; tvp never under torchrun."""
    options = _train_parser().parse_args(argv)
    keep_freed_memory()
    ranks = ranks_here()
    if options.method == "tvp":
        if ranks.count > 1:
            came, cure = f"{ranks.count} processes", "start tvp without torchrun, or train m2pt"
            raise ConfigError("train", [fault("torchrun", expected="one process", came=came, cure=cure)])
        from training.tvp import train_tvp

        bundle = train_tvp(read_config(TvpConfig, options.config, options.set))
    elif options.method == "baseline":
        from training.baselines import train_baseline

        saved = train_baseline(read_config(BaselineConfig, options.config, options.set))
        if ranks.is_first:
            print(f"{saved.folder}: {saved.values:,} trained values")
        return 0
    else:
        from training.m2pt import train_m2pt

        bundle = train_m2pt(read_config(M2ptConfig, options.config, options.set))
    if ranks.is_first:
        values = sum(bundle.trained_values.values())
        print(f"bundle {bundle.path}: {values:,} trained values, digest {bundle.digest}")
    return 0


def main_evaluate(argv: list[str]) -> int:
    """`passepartout evaluate --config FILE [--bundle DIR | --server URL --task NAME]`: a table, and JSON."""
    options = _evaluate_parser().parse_args(argv)
    given = {name: getattr(options, name) for name in ("bundle", "server", "served_model", "task")}
    settings = [f"{name}={json.dumps(str(value))}" for name, value in given.items() if value is not None]
    if options.server is not None:
        settings.append("model=null")
    settings = [*options.set, *settings]
    config = read_config(EvaluateConfig, options.config, settings)
    keep_freed_memory()
    from training.evaluation_report import report

    report(config)
    return 0


def main_model(argv: list[str]) -> int:
    """`passepartout model build|train NAME`."""
    if argv[:1] and argv[0] in _MODEL_COMMANDS:
        run: Callable[[list[str]], int] = import_module(_MODEL_COMMANDS[argv[0]][0]).main
        return run(argv[1:])
    lines = [
        f"  passepartout model {verb} NAME   {meaning}" for verb, (_, meaning) in _MODEL_COMMANDS.items()
    ]
    print(
        "\n".join(["usage:", *lines, "  NAME is pico-llava, or another of the family (see `build --help`)"])
    )
    return 0 if {"-h", "--help"} & set(argv) else 2


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passepartout train",
        description="Train a prompt offline. Ctrl-C writes a checkpoint; the same command goes on from it.",
        epilog=_fields_help() + "\n\nexamples:\n"
        "  passepartout train m2pt --config examples/pico/lines.yaml\n"
        "  passepartout train tvp --config examples/demo/kind-frame.yaml --set lr=50",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "method",
        choices=("tvp", "m2pt", "baseline"),
        help="a learned frame; learned tokens in every layer; or what m2pt is compared with (LoRA, prompt "
        "tuning, full fine-tuning): m2pt's fields, and `learns`",
    )
    _add_config(parser)
    return parser


def _evaluate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passepartout evaluate",
        description="Measure a model, and a bundle or a served task beside it, on examples: on transformers, "
        "or through a running server (its key, if any, in PASSEPARTOUT_API_KEY).",
    )
    _add_config(parser)
    parser.add_argument("--bundle", type=Path, help="a bundle to measure beside the base model")
    parser.add_argument("--server", metavar="URL", help="ask a running server in place of the config's model")
    parser.add_argument(
        "--served-model",
        metavar="NAME",
        help="name under which the server has its model (default: "
        f"{EvaluateConfig.model_fields['served_model'].default}, a Passepartout's)",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="a task of the server to measure beside its base model"
    )
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job, as YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one field of it"
    )


def _fields_help() -> str:
    """The config's fields with their defaults, from the models themselves."""
    lines = ["fields of the config:"]
    shared = TrainConfig.model_fields.items()
    lines += [field_line(name, field) for name, field in shared if name not in _BY_METHOD]
    for title, kind in (("tvp", TvpConfig), ("m2pt", M2ptConfig)):
        options = kind.model_fields[title].annotation
        assert options is not None
        lines.append(f"of {title}:")
        others = [name for name in kind.model_fields if name not in {*TrainConfig.model_fields, title, "lr"}]
        own = {name: kind.model_fields[name] for name in (*_BY_METHOD, *others)}
        lines += [field_line(name, field) for name, field in own.items()]
        lines += [field_line(f"{title}.{name}", field) for name, field in options.model_fields.items()]
    lines += ["of baseline:", field_line("learns", BaselineConfig.model_fields["learns"])]
    return "\n".join(lines)
