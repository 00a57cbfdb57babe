"""Lets torch's companions be imported beside a torch that their compiled parts were not built for.

Beside a CPU torch, pip may install torchvision, torchaudio and torchcodec as built for CUDA. Their libraries
do not load, and importing them fails in ways that transformers and vLLM, which try, do not expect. So each is
put in a state that they do expect:

- torchvision: two schemas, `nms` and `qnms`, are declared: transforms work, `nms` itself still raises.
- torchaudio: told that it has no library, which it accepts; what is written in Python works.
- torchcodec: its OSError becomes an ImportError; vLLM then does without it.

`passepartout_torch.pth` imports this module when any interpreter of the environment starts, for vLLM starts
fresh ones that import torchvision before any plugin. Starting costs one small class and no further import,
which is not measurable in a process that imports anything at all: torch is imported only once somebody
imports torchvision, which does so anyway. Where the libraries load, nothing is changed. Written for torch
2.13, torchvision 0.28, torchaudio 2.11 and torchcodec 0.17.
"""

import sys

TYPE_CHECKING = False  # as in `typing`, which is not imported at start-up
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SCHEMAS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: "list[Any]" = []  # a torch Library takes its operators with it when it is collected


def declare_missing_ops(library: str | None) -> bool:
    """Declares torchvision's two schemas unless its own library gives them.

    Args:
        library: path of torchvision's compiled `_C`, or None where there is none.

    Returns:
        True if the schemas were declared here.
    """
    import torch

    if library is not None:
        try:
            torch.ops.load_library(library)  # what torchvision does next; loading it twice is free
            return False
        except OSError:
            pass
    if not _kept:
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        for name in _SCHEMAS:
            fragment.define(name + _SIGNATURE)
        _kept.append(fragment)
    return True


def or_none(load: "Callable[[str], bool]") -> "Callable[[str], bool]":
    """torchaudio's loader, with a library that does not load taken for one that is not there."""

    def load_or_none(name: str) -> bool:
        try:
            return load(name)
        except OSError:
            return False

    return load_or_none


def _run_torchvision(run: "Callable[[Any], None]", module: "Any") -> None:
    declare_missing_ops(_compiled_library(list(module.__path__)))
    run(module)


def _run_torchaudio_loader(run: "Callable[[Any], None]", module: "Any") -> None:
    run(module)
    module._load_lib = or_none(module._load_lib)


def _run_torchcodec(run: "Callable[[Any], None]", module: "Any") -> None:
    try:
        run(module)
    except OSError as error:
        raise ImportError(f"torchcodec was built for another torch: {error}") from error


_CURES = {
    "torchvision": _run_torchvision,
    "torchaudio._extension.utils": _run_torchaudio_loader,
    "torchcodec": _run_torchcodec,
}


def _compiled_library(package_folders: list[str]) -> str | None:
    from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder

    for folder in package_folders:
        spec = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
        if spec is not None:
            return spec.origin
    return None


class CompanionFinder:
    """Finds the modules of `_CURES` as Python would, and has each run with its cure."""

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name not in _CURES:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run, cure = spec.loader.exec_module, _CURES[name]
        exec_module = lambda module: cure(run, module)  # noqa: E731
        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 - mypy forbids assigning to a method
        return spec


def install() -> None:
    """Puts the finder before the others, once."""
    if CompanionFinder not in sys.meta_path:
        sys.meta_path.insert(0, CompanionFinder)


install()
