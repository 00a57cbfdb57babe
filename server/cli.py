"""`passepartout serve --model M --tasks DIR [any option of vLLM's server]`.

Our options and vLLM's share one command line and one YAML file (`--config`). `--help` shows ours and how to
see vLLM's; `--help=all`, `--help=ModelConfig` or `--help=max-model-len` are vLLM's own.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from prompts.remote_files import is_remote
from server.config import ServeConfig, is_option, set_environment
from server.sources import first_look
from server.starting import ended_by_signals

__all__ = ["add_options", "main"]

PROG = "passepartout serve"
GROUP = "Passepartout"

_DESCRIPTION = "Serve one frozen multimodal model to many tasks: vLLM's OpenAI server plus the field `task`."

_HELP: dict[str, tuple[str, str]] = {
    "tasks": (
        "DIR",
        "the store, every good bundle is served: a folder, hf://owner/repo, s3:// or gs://… (required)",
    ),
    "tasks_cache": ("DIR", "where a store that lies elsewhere is brought to; else a folder of your cache"),
    "tasks_lock": ("FILE", "take nothing from elsewhere but what FILE says (task pull --lock)"),
    "source_seconds": ("S", "between two looks at a store that lies elsewhere"),
    "max_device_tasks": ("N", "tasks on the device at a time; a request for another waits until it is there"),
    "max_host_tasks": ("N", "tasks kept in host memory, from where they come to the device at once"),
    "pin_tasks": ("A,B", "names of tasks that never leave the device"),
    "text_rows": ("N", "prompt tokens of all tasks on the device; 0: what the bundles of the store need"),
    "vision_rows": ("N", "the same for the vision encoder's prompt tokens"),
    "prefix_rows": ("N", "the same for tokens of prefix tuning, which has them as keys and values"),
    "projectors": ("N", "tasks on the device with a projector of their own; 0: what the store needs"),
    "lm_heads": ("N", "the same for output layers"),
    "max_picture_pixels": ("N", "larger pictures are refused before they are decoded"),
    "canary": (
        "WHAT",
        "of a bundle whose canary the engine does not find again: refuse it, warn of it, or off: not asked",
    ),
    "keys": ("FILE", "who may ask what, and how much: docs/access.md; without it the server is open to all"),
    "allow_fields": ("A,B", "fields that clients may send all the same, without --keys: docs/access.md"),
    "audit_log": ("FILE", "who changed which task, a line of JSON each; stderr has them anyway"),
    "max_queued": ("N", "requests that wait for the engine; more are answered 503 at once"),
    "max_body_mb": ("N", "larger requests are refused while they are read"),
    "max_bodies_mb": ("N", "all requests that a front end holds; for what goes beyond it the answer is 503"),
    "picture_hosts": (
        "A,B",
        "hosts to fetch pictures from: NAME, NAME:PORT or *.NAME; none: pictures come as data: alone",
    ),
    "max_pictures": ("N", "pictures of one request"),
    "max_picture_mb": ("N", "a picture that is fetched"),
    "picture_seconds": ("S", "to fetch a picture, redirects included"),
    "log_format": ("WHAT", "text, or json: one object a line, of vLLM and uvicorn too"),
    "drain_seconds": ("S", "for requests under way to end when the server is told to stop; new ones get 503"),
    "store_seconds": (
        "S",
        "between two looks at the store (and the keys) for what came, changed or went; 0: never",
    ),
}

_EPILOG = """\
Every other option goes to vLLM's server as it is: --host, --port, --dtype, --max-model-len, --api-key, …
  passepartout serve --help=all              all of them, ours included
  passepartout serve --help=ModelConfig      one section
  passepartout serve --help=max-model-len    one option

Other defaults than vLLM's:
  --served-model-name    base
  --enable-prompt-tokens-details  on: `usage` says how many tokens of a prompt were cached
  --otlp-traces-endpoint  as OpenTelemetry's variables say (OTEL_EXPORTER_OTLP_ENDPOINT, …)
  --kv-cache-memory-bytes  on a CPU, unless VLLM_CPU_KVCACHE_SPACE is set: a quarter of the free memory,
                         1 GiB at least and 4 GiB at most

Ask it:
  curl localhost:8000/v1/tasks
  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "base", "task": "NAME", "messages": [{"role": "user", "content": "…"}]}'
  The task may also be named by the header X-Task or as "model": "base:NAME".
  GET /ready says which bundles are served and which are refused, with their faults.
"""


def main(argv: list[str]) -> int:
    """Serve until stopped; returns the exit status.

    Raises:
        InputError: an option is wrong, or nothing can be served.
    """
    if not argv or not {"-h", "--help"}.isdisjoint(argv):
        print(_own_parser().format_help())
        return 0 if argv else 2
    given, rest = _own_parser().parse_known_args(argv)
    if given.tasks is not None or not any(one.partition("=")[0] in ("--config", "--help") for one in rest):
        ServeConfig.from_namespace(given)  # faults in seconds, not after vLLM's import
    set_environment()
    with ended_by_signals():
        from server.vllm_cli import parse, run  # imports vLLM, which reads the environment

        args = parse(argv, prog=PROG, add_options=add_options)
        config = ServeConfig.from_namespace(args)
        if config.source:
            first_look(config.source, config.tasks, config.tasks_lock)
        run(args, config)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add our options, with the defaults of `ServeConfig`'s fields."""
    group = parser.add_argument_group(GROUP, "Which tasks are served, and the room they get.")
    for one in filter(is_option, fields(ServeConfig)):
        metavar, meaning = _HELP[one.name]
        kind: Any = Path if one.type in (Path, Path | None) else one.type
        options: dict[str, Any] = {"type": kind, "metavar": metavar, "help": meaning}
        if kind is not Path:
            options |= {"default": one.default, "help": f"{meaning} (default: %(default)s)"}
        if one.name == "tasks":
            options["type"] = _location
        group.add_argument("--" + one.name.replace("_", "-"), **options)


def _location(given: str) -> Path | str:
    """A folder, or the address of a store that lies elsewhere as it stands."""
    return given if is_remote(given) else Path(given)


def _own_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} --model M --tasks DIR [any option of vLLM's server]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    model = parser.add_argument_group("The model")
    model.add_argument("--model", metavar="M", help="folder or hub name of the base model (required)")
    add_options(parser)
    return parser
