"""`passepartout task import` and `export`: prompts that other tools save, made into bundles, and back.

passepartout task import tvp SOURCE BUNDLE [--name NAME] [--inner PIXELS]
passepartout task import m2pt SOURCE BUNDLE --base MODEL [--name NAME] [--mode MODE] [--no-projector]
                              [--lm-head]
passepartout task import peft SOURCE BUNDLE --base MODEL [--name NAME]
passepartout task export peft BUNDLE DIR
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompts.bundle import Bundle, load_bundle
from prompts.errors import InputError
from prompts.faults import fault, shown
from prompts.manifest import NAME_PATTERN, Usage

__all__ = ["add_export", "add_import", "checked_name"]

_IMPORT = "make a bundle of a prompt that another tool saved; no code of a file is run"
_EXPORT = "write a bundle in another tool's format"
_TVP = "a frame: TVP's .pth with the tensor `perturbation`"
_M2PT = "M²PT's state dict: a file, or a folder of its shards"
_PEFT_IN = (
    "a PEFT adapter: the folder that save_pretrained wrote, of type PROMPT_TUNING, P_TUNING or PREFIX_TUNING "
    "and task type CAUSAL_LM. LoRA is no prompt: vLLM serves it itself (--enable-lora)"
)
_PEFT_OUT = (
    "a PEFT adapter, for PeftModel.from_pretrained: text prompts at the input alone become PROMPT_TUNING, "
    "a prefix PREFIX_TUNING; bundles with anything else are refused"
)


def add_import(verbs: Any, say: Callable[[Bundle], int]) -> None:
    """Adds the verb to argparse's `verbs`; `say` prints the bundle that was made."""
    parser = verbs.add_parser("import", help=_IMPORT, description=_IMPORT)
    kinds = parser.add_subparsers(title="kinds", required=True, metavar="tvp|m2pt|peft")
    tvp, m2pt, peft = (
        kinds.add_parser(name, help=meaning, description=f"Make a bundle of {meaning}.")
        for name, meaning in (("tvp", _TVP), ("m2pt", _M2PT), ("peft", _PEFT_IN))
    )
    for kind, make in ((tvp, _import_tvp), (m2pt, _import_m2pt), (peft, _import_peft)):
        kind.add_argument("source", type=Path, metavar="SOURCE", help="what to read; no code of it is run")
        kind.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder, to be made")
        kind.add_argument("--name", help="the task's name (default: the bundle folder's)")
        kind.set_defaults(run=lambda given, make=make: say(make(given)))
    tvp.add_argument(
        "--inner", type=int, default=164, metavar="PIXELS", help="side of the picture inside (%(default)s)"
    )
    for kind in (m2pt, peft):
        kind.add_argument(
            "--base", type=Path, required=True, metavar="MODEL", help="folder of the model it was trained in"
        )
    m2pt.add_argument(
        "--mode",
        choices=("released", "paper"),
        default="released",
        help="what the language model gets of the vision prompts (default: %(default)s)",
    )
    m2pt.add_argument("--no-projector", action="store_true", help="leave its projector out")
    m2pt.add_argument("--lm-head", action="store_true", help="take its output layer too")


def add_export(verbs: Any) -> None:
    """Adds the verb to argparse's `verbs`."""
    parser = verbs.add_parser("export", help=_EXPORT, description=_EXPORT)
    kinds = parser.add_subparsers(title="kinds", required=True, metavar="peft")
    peft = kinds.add_parser("peft", help=_PEFT_OUT, description=f"Make {_PEFT_OUT}.")
    peft.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    peft.add_argument("out", type=Path, metavar="DIR", help="the adapter's folder, to be made")
    peft.set_defaults(run=_export_peft)


def _import_tvp(given: argparse.Namespace) -> Bundle:
    from prompts.interchange import import_tvp

    return import_tvp(given.source, given.bundle, name=_name(given), inner=given.inner)


def _import_m2pt(given: argparse.Namespace) -> Bundle:
    from prompts.interchange import import_m2pt

    return import_m2pt(
        given.source,
        given.bundle,
        name=_name(given),
        base=given.base,
        mode=given.mode,
        projector=not given.no_projector,
        lm_head=given.lm_head,
    )


def _import_peft(given: argparse.Namespace) -> Bundle:
    from prompts.interchange_peft import import_peft

    return import_peft(given.source, given.bundle, name=_name(given), base=given.base)


def _export_peft(given: argparse.Namespace) -> int:
    from prompts.interchange_peft import export_peft

    bundle = load_bundle(given.bundle)
    export_peft(bundle, given.out)
    print(given.out)
    if bundle.manifest.usage != Usage():
        print("  not exported: usage (PEFT's format has no place for it)")
    return 0


def _name(given: argparse.Namespace) -> str:
    return checked_name(given.name or given.bundle.resolve().name.lower())


def checked_name(name: str) -> str:
    """The same name, if a task may have it.

    Raises:
        InputError: it may not.
    """
    if re.fullmatch(NAME_PATTERN, name):
        return name
    cure = "give one with --name"
    raise InputError(fault("--name", expected=f"a name like {NAME_PATTERN}", came=shown(name), cure=cure))
