"""The command `passepartout`: finds a verb's function and hands it the rest of the line.

    passepartout serve --model M --tasks DIR      passepartout task show|preview|frame|put|canary … BUNDLE
    passepartout train tvp|m2pt --config FILE     passepartout model build NAME
    passepartout evaluate --config FILE           passepartout report tvp|m2pt --config FILE
    passepartout demo

A verb's module is imported only when the verb is called: `task show` starts without vLLM.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

__all__ = ["TASK_COMMANDS", "VERBS", "find_task_command", "find_verb", "main", "usage"]

VERBS = {
    "serve": ("server.cli:main", "serve a model and its tasks over HTTP"),
    "train": ("training.cli:main_train", "train a task: tvp (a frame) or m2pt (deep prompts)"),
    "evaluate": ("training.cli:main_evaluate", "measure a model, with or without a task"),
    "report": ("training.report.command:main", "train, measure, compare: tvp (models) or m2pt (methods)"),
    "task": ("prompts.cli:main", "look at a saved task, put it into a store, import, export, canary"),
    "model": ("training.cli:main_model", "build or train an embedded model"),
    "key": ("server.access.command:main", "make an API key for the file of `serve --keys`"),
    "demo": ("training.demo.command:main", "train, serve and compare on the embedded model"),
}

TASK_COMMANDS = {
    "canary": ("training.canary_command:main", None),
    "verify": ("server.verify:main", "--model"),
}
"""Commands of `task` that start a model, which `prompts` cannot, and the option they need to do so."""


def usage() -> str:
    """One line a verb."""
    lines = [f"  {verb:<10}{meaning}" for verb, (_, meaning) in VERBS.items()]
    return "\n".join(["usage: passepartout VERB …   (passepartout VERB --help says more)", "", *lines])


def find_verb(verb: str) -> Callable[[list[str]], int]:
    """Imports the function of a verb of `VERBS`."""
    return _import(VERBS[verb][0])


def find_task_command(arguments: list[str]) -> Callable[[list[str]], int] | None:
    """Imports the function of a command of `TASK_COMMANDS`; None where `arguments` name none, or no model."""
    target, option = TASK_COMMANDS.get(arguments[0] if arguments else "", ("", None))
    given = {one.partition("=")[0] for one in arguments}
    return _import(target) if target and (option is None or option in given) else None


def _import(target: str) -> Callable[[list[str]], int]:
    module, _, function = target.partition(":")
    found: Callable[[list[str]], int] = getattr(import_module(module), function)
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit status: the verb's own, or 2 where the caller has something to cure.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["--version"], ["-V"]):
        print(version("passepartout-serve"))
        return 0
    if arguments[:1] in (["--help"], ["-h"]):
        print(usage())
        return 0
    if not arguments or arguments[0] not in VERBS:
        given = f"unknown verb {arguments[0]!r}" if arguments else "no verb given"
        print(f"error: {given}\n\n{usage()}", file=sys.stderr)
        return 2

    from prompts.errors import PassepartoutError

    try:
        status = _run(arguments[0], arguments[1:])
        sys.stdout.flush()
        return status
    except PassepartoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `passepartout task show … | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(verb: str, rest: list[str]) -> int:
    command = find_task_command(rest) if verb == "task" else None
    return find_verb(verb)(rest) if command is None else command(rest[1:])


if __name__ == "__main__":
    sys.exit(main())
