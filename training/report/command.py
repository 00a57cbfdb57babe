"""`passepartout report tvp|m2pt --config FILE`: trains, measures, writes Markdown."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from training.config import read_config
from training.config.fields import field_lines
from training.memory import keep_freed_memory

__all__ = ["main"]

_DESCRIPTION = """\
Make a paper's picture for your model and tasks, in Markdown with tables and figures.

  tvp   the TVP paper's: frames trained on each model in turn, measured on all, with baselines
  m2pt  the M²PT paper's: M²PT beside full fine-tuning, LoRA, prompt tuning and its own parts, all trained
        alike on one model and measured on tasks they have not seen; what each costs; its components, its
        lengths, and where it looks

Several seeds, intervals over seeds and pictures. Ctrl-C stops; the same command goes on. Finished trainings
and measurements are kept by content under the config's `cache` and never made twice: add a seed, a task or a
method, and only what is new is run."""
_EXAMPLES = """\
examples:
  passepartout report m2pt --config examples/report/m2pt.yaml --plan
  passepartout report m2pt --config examples/report/m2pt.yaml
  passepartout report m2pt --config examples/report/m2pt.yaml --set 'seeds=[0]' --set rates.lora-8=3e-4
  passepartout report tvp --config examples/report/tvp.yaml"""


def main(argv: list[str]) -> int:
    """The command; 0 when the report is written.

    Raises:
        ConfigError: the config, a model or data does not fit.
    """
    options = _parser().parse_args(argv)
    keep_freed_memory()
    write = _tvp if options.method == "tvp" else _m2pt
    return write(options.config, options.set, plan=options.plan)


def _tvp(file: Path, settings: Sequence[str], *, plan: bool) -> int:
    from training.report.tvp.config import ReportConfig

    config = read_config(ReportConfig, file, settings)
    from training.report.tvp.document import write_report
    from training.report.tvp.plan import plan_frames
    from training.report.tvp.run import count_measurements, run_report

    if plan:
        titles = [job.title for job in plan_frames(config)]
        return _show(titles, f"{len(titles)} frames, {count_measurements(config)} measurements")
    return _written(lambda: write_report(run_report(config)))


def _m2pt(file: Path, settings: Sequence[str], *, plan: bool) -> int:
    from training.report.m2pt.config import ReportConfig

    config = read_config(ReportConfig, file, settings)
    from training.report.m2pt.document import write_report
    from training.report.m2pt.plan import plan_jobs
    from training.report.m2pt.run import count_measurements, run_report

    if plan:
        titles = [job.title for job in plan_jobs(config)]
        return _show(titles, f"{len(titles)} trainings, {count_measurements(config)} measurements")
    return _written(lambda: write_report(run_report(config)))


def _show(titles: Sequence[str], summary: str) -> int:
    print("\n".join([*titles, summary]))
    return 0


def _written(write: Callable[[], Path]) -> int:
    print(f"report: {write()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passepartout report",
        description=_DESCRIPTION,
        epilog=f"{_fields_help()}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=("tvp", "m2pt"), help="what is reported on")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the report, as YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one field of it"
    )
    parser.add_argument(
        "--plan", action="store_true", help="list what it trains, and end; paths are not looked at"
    )
    return parser


def _fields_help() -> str:
    from training.report.m2pt import config as m2pt
    from training.report.tvp import config as tvp

    of_tvp = field_lines(
        [
            ("", tvp.ReportConfig),
            ("tasks.NAME", tvp.TaskConfig),
            ("recipe", tvp.RecipeConfig),
            ("ablation", tvp.AblationConfig),
            ("scale", tvp.ScaleConfig),
            ("corruption", tvp.CorruptionConfig),
        ]
    )
    of_m2pt = field_lines(
        [
            ("", m2pt.ReportConfig),
            ("recipe", m2pt.RecipeConfig),
            ("rates.METHOD", m2pt.RateConfig),
            ("lengths", m2pt.LengthsConfig),
            ("attention", m2pt.AttentionConfig),
        ]
    )
    return "\n".join(["fields of tvp's config:", *of_tvp, "fields of m2pt's config:", *of_m2pt])
