"""The stages of `passepartout demo`: build, train, serve, ask, show."""

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prompts.bundle import Bundle, load_bundle
from prompts.errors import EngineError
from training.data import ExampleSource
from training.demo.asking import Answer, ask_all
from training.demo.lineup import LINEUP, Entry, examples_folder
from training.demo.picture import draw_sheet
from training.demo.serving import running_server
from training.paths import model_folder, run_folder
from training.pico.tasks import make_source
from training.served_client import messages_of
from training.statistics import Score, score

__all__ = ["main"]


@dataclass(frozen=True)
class Row:
    """One line of the demo's table."""

    task: str
    method: str
    trained_values: int
    digest: str
    base: Score
    tuned: Score

    @property
    def clearly_better(self) -> bool:
        """The gain is larger than the 95 % half widths of both figures taken together."""
        halves = [(found.high - found.low) / 2 for found in (self.base, self.tuned)]
        return self.tuned.accuracy - self.base.accuracy > math.hypot(*halves)


def main(argv: list[str]) -> int:
    """The command; with --no-wait 1 where a task did not beat the base model by more than its interval."""
    options = _parser().parse_args(argv)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # either stops the server too; a shell's `&` ignores SIGINT
        signal.signal(number, _interrupt)
    console, started = Console(), time.monotonic()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(console)
    store = fill_store(console, model, out, options.steps)
    console.rule("serve all tasks at once")
    with running_server(model=model, tasks=store, port=options.port, log=out / "server.log") as address:
        console.print(f"the server is ready at {address} (its log: {out / 'server.log'})")
        rows = ask_every_task(console, address, store, out, options.n)
        minutes = (time.monotonic() - started) / 60
        report(console, rows, out, minutes)
        unclear = [row.task for row in rows if not row.clearly_better]
        if unclear:
            console.print(f"no gain beyond the noise: {', '.join(unclear)}")
        if not options.no_wait:
            wait(console, address, out)
            return 0
    return 1 if unclear else 0


def build_model(console: Console) -> Path:
    """pico-llava, built if it is not there or was built from other weights."""
    console.rule("build pico-llava")
    _run("model", "build", "pico-llava", "--keep")
    return model_folder("pico-llava")


def fill_store(console: Console, model: Path, out: Path, steps: int | None) -> Path:
    """A fresh store with the shipped bundles and those trained here and now."""
    store, runs = out / "tasks", out / "runs"
    for folder in (store, runs):
        shutil.rmtree(folder, ignore_errors=True)
    store.mkdir()
    for entry in LINEUP:
        if entry.verb is None:
            shutil.copytree(examples_folder() / "tasks" / entry.task, store / entry.task)
        else:
            console.rule(f"train {entry.task} ({entry.method})")
            train(entry, model, run=runs / entry.task, bundle=store / entry.task, steps=steps)
    return store


def train(entry: Entry, model: Path, *, run: Path, bundle: Path, steps: int | None) -> None:
    """One offline training job, by the same command a user would type."""
    config = examples_folder() / "demo" / f"{entry.task}.yaml"
    settings: dict[str, object] = {"model": model, "out": run, "bundle": bundle}
    if steps is not None:
        settings["steps"] = steps
    if entry.verb == "tvp":
        settings["tvp.clip"] = model / "clip"
    _run(
        "train",
        str(entry.verb),
        "--config",
        str(config),
        *(f"--set={key}={value}" for key, value in settings.items()),
    )


def ask_every_task(console: Console, address: str, store: Path, out: Path, count: int) -> list[Row]:
    """Asks each task's held-out pictures twice, without and with the task, and draws a sheet of them."""
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    asked_base: dict[str, list[Answer]] = {}
    rows = []
    for entry in LINEUP:
        source = held_out(entry, count)
        if entry.pico_task not in asked_base:
            asked_base[entry.pico_task] = ask_all(address, source, task=None)
        bundle, base = load_bundle(store / entry.task), asked_base[entry.pico_task]
        tuned = ask_all(address, source, task=entry.task)
        check_digests(bundle, base, tuned)
        draw_sheet(bundle, source, base, tuned, pictures / f"{entry.task}.png")
        values = sum(bundle.trained_values.values())
        rows.append(Row(entry.task, entry.method, values, bundle.digest, _score(base), _score(tuned)))
        console.print(f"  {entry.task}: {_score(base)} without, {_score(tuned)} with the task")
    return rows


def held_out(entry: Entry, count: int) -> ExampleSource:
    """Pictures of the test split, which no training has seen."""
    return make_source(entry.pico_task, "test", count, 0)


def check_digests(bundle: Bundle, base: Sequence[Answer], tuned: Sequence[Answer]) -> None:
    """Every answer must name what served it.

    Raises:
        EngineError: an answer came from another prompt than the one asked for.
    """
    served = {answer.digest for answer in tuned}
    if served != {bundle.digest} or any(answer.digest for answer in base):
        raise EngineError(
            f"task {bundle.name}: expected digest {bundle.digest}, "
            f"the answers name {sorted(map(str, served))}"
        )


def report(console: Console, rows: Sequence[Row], out: Path, minutes: float) -> None:
    """Prints the table and writes it as JSON beside the pictures."""
    table = Table(
        title=f"Held-out pictures over HTTP, n = {rows[0].base.n} each, 95 % intervals "
        f"({minutes:.1f} minutes in all)"
    )
    for heading in ("task", "method", "values", "base", "with the task", "gain"):
        left = heading in ("task", "method")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        gained = f"{100 * (row.tuned.accuracy - row.base.accuracy):+.0f}"
        cells = [row.task, row.method, f"{row.trained_values:,}", str(row.base), str(row.tuned)]
        table.add_row(*cells, gained if row.clearly_better else gained + " unclear")
    console.print(table)
    written = {"minutes": round(minutes, 1), "tasks": [asdict(row) for row in rows]}
    (out / "demo.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    console.print(f"pictures: {out / 'pictures'}   figures: {out / 'demo.json'}")


def wait(console: Console, address: str, out: Path) -> None:
    """Leaves the server up until Ctrl-C, with requests to copy."""
    request = out / "request.json"
    request.write_text(json.dumps(_request(LINEUP[-1])) + "\n", encoding="utf-8")
    console.print("\nThe server stays up until Ctrl-C. Ask it:\n")
    lines = [
        f"curl {address}/v1/tasks",
        f"curl -i {address}/v1/chat/completions -H 'Content-Type: application/json' -d @{request}",
        f"{sys.executable} examples/ask.py --task {LINEUP[-1].task} --url {address}",
    ]
    for line in lines:
        console.print("  " + line, soft_wrap=True, highlight=False, markup=False)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopping")


def _request(entry: Entry) -> dict[str, object]:
    """A chat completion with a held-out picture, as one would write it by hand."""
    messages = messages_of(held_out(entry, 1)[0])
    return {"model": "base", "task": entry.task, "temperature": 0, "messages": messages}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _score(answers: Sequence[Answer]) -> Score:
    return score([answer.right for answer in answers])


def _run(*arguments: str) -> None:
    """One `passepartout` command in a process of its own; its progress goes to this terminal."""
    status = subprocess.run([sys.executable, "-m", "passepartout", *arguments], check=False).returncode
    if status:
        raise EngineError(f"`passepartout {' '.join(arguments)}` ended with status {status}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, came {number}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passepartout demo",
        description="Build the embedded model, train a TVP frame and an M²PT prompt, serve them with the "
        "shipped tasks, and compare each with the base model on held-out pictures over HTTP.",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="exit after the table instead of leaving the server up"
    )
    parser.add_argument(
        "--n", type=_positive, default=100, help="held-out pictures per task (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=_positive, help="train so few steps only (a quick look; it teaches little)"
    )
    parser.add_argument("--port", type=int, default=8000, help="the server's port (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=run_folder("demo"), help="folder of results (default: %(default)s)"
    )
    return parser
