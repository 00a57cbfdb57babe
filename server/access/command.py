"""`passepartout key new NAME`: a fresh key, shown once, and the entry for the file of `serve --keys`."""

import argparse
import sys

import yaml
from pydantic import ValidationError

from prompts.errors import ConfigError
from prompts.faults import validation_faults
from server.access.keys import KeyEntry, hash_key, new_key

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Print a key on stderr and its entry on stdout, so that `>> keys.yaml` takes the entry alone.

    Raises:
        ConfigError: a name that no entry may have.
    """
    args = _parse(argv)
    key = new_key()
    try:
        entry = KeyEntry(
            name=args.name, sha256=[hash_key(key)], admin=args.admin, tasks=args.task, base=args.base
        )
    except ValidationError as error:
        raise ConfigError("passepartout key new", validation_faults(error)) from error
    print(f"the key of {entry.name}, shown this once:\n\n    {key}\n", file=sys.stderr)
    print("its entry, under `keys:` of the file:\n", file=sys.stderr)
    said = entry.model_dump(include={"name", "sha256", "admin", "tasks", "base"})
    text = yaml.safe_dump([said], sort_keys=False, width=200)
    print("".join(f"  {line}\n" for line in text.splitlines()), end="")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="passepartout key", description="API keys of the server.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    new = verbs.add_parser("new", help="print a fresh key once, and its entry", description=__doc__)
    new.add_argument("name", metavar="NAME", help="who holds it, for logs and limits")
    new.add_argument("--task", metavar="TASK", action="append", default=[], help="one it may ask; * for all")
    new.add_argument("--base", action="store_true", help="it may ask the base model")
    new.add_argument("--admin", action="store_true", help="it may do everything")
    return parser.parse_args(argv)
