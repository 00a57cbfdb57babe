"""`passepartout task pull` and `push`: bundles from and to a store elsewhere."""

import argparse
import sys
from pathlib import Path

from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.remote import Source
from prompts.remote_files import push_bundle
from prompts.remote_lock import Lock

__all__ = ["add_pull", "add_push"]

_PULL = "bring the bundles of a store elsewhere into a folder; only what changed is fetched"
_PUSH = "copy a bundle into a store elsewhere, under its task's name; what it replaces is told"
_WHERE = "hf://owner/repo[@revision][/folder], s3://…, gs://… or what else fsspec opens"


def add_pull(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `pull SOURCE DIR [--lock FILE | --locked FILE]`."""
    pull = verbs.add_parser("pull", help=_PULL, description=f"{_PULL}.")
    pull.add_argument("source", metavar="SOURCE", help=_WHERE)
    pull.add_argument("folder", type=Path, metavar="DIR", help="a folder that a server may serve")
    locks = pull.add_mutually_exclusive_group()
    locks.add_argument("--lock", type=Path, metavar="FILE", help="write what came, with its digests")
    locks.add_argument("--locked", type=Path, metavar="FILE", help="take nothing but what FILE says")
    pull.set_defaults(run=_pull)


def add_push(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `push BUNDLE TARGET [--beside]`."""
    push = verbs.add_parser("push", help=_PUSH, description=f"{_PUSH}.")
    push.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    push.add_argument("target", metavar="TARGET", help=_WHERE)
    push.add_argument("--beside", action="store_true", help="as a version that waits until it is activated")
    push.set_defaults(run=_push)


def _pull(given: argparse.Namespace) -> int:
    lock = Lock.read(given.locked) if given.locked is not None else None
    report = Source(given.source).sync(given.folder, lock=lock, progress=_say)
    refused = dict(report.refused)
    for name in sorted((lock.bundles.keys() if lock is not None else set()) - report.bundles.keys()):
        cure = "push it, or write the lock again"
        missing = fault(name, expected="the bundle of the lock", came="nothing", cure=cure)
        refused.setdefault(name, [missing])
    for name in report.unnamed:
        _say(f"{name}: not named by the lock, left there; `task pull --lock FILE` writes it again")
    for name, digest in sorted(report.bundles.items()):
        print(f"{name} {digest}")
    if refused:
        raise ConfigError(given.source, [one for faults in refused.values() for one in faults])
    if given.lock is not None:
        Lock(bundles=dict(sorted(report.bundles.items()))).write(given.lock)
    return 0


def _push(given: argparse.Namespace) -> int:
    print(push_bundle(given.bundle, given.target, beside=given.beside, progress=_say))
    return 0


def _say(said: str) -> None:
    print(said, file=sys.stderr)
