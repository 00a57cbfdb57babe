"""`passepartout report tvp --config FILE`: trains on each model in turn, measures on all, writes Markdown."""

import argparse
from pathlib import Path

from training.config import read_config
from training.memory import keep_freed_memory
from training.report.tvp.config import ReportConfig

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """The command; 0 when the report is written.

    Raises:
        ConfigError: the config, a model or data does not fit.
    """
    options = _parser().parse_args(argv)
    config = read_config(ReportConfig, options.config, options.set)
    keep_freed_memory()
    from training.report.tvp.document import write_report
    from training.report.tvp.plan import plan_frames
    from training.report.tvp.run import count_measurements, run_report

    if options.plan:
        jobs = plan_frames(config)
        print("\n".join(job.title for job in jobs))
        print(f"{len(jobs)} frames, {count_measurements(config)} measurements")
        return 0
    print(f"report: {write_report(run_report(config))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passepartout report",
        description="Make the TVP paper's picture for your models and tasks: frames trained on each model "
        "in turn, measured on all, with baselines, seeds and intervals. Ctrl-C stops; the same command goes "
        "on. Finished frames and measurements are kept by content and never made twice.",
    )
    parser.add_argument("method", choices=("tvp",), help="what is reported on")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the report, as YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one field of it"
    )
    parser.add_argument("--plan", action="store_true", help="list the frames that it trains, and end")
    return parser
