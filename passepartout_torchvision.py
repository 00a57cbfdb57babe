"""Lets `import torchvision` work where its compiled ops do not fit the installed torch.

Beside a CPU torch, pip installs a torchvision built for CUDA. Its library does not load, the operators
`torchvision::nms` and `torchvision::qnms` stay undefined, and `import torchvision` dies with
`operator torchvision::nms does not exist`. Declaring the two schemas first is enough: transforms work, and
calling `nms` itself still raises. `passepartout_torchvision.pth` imports this module when any interpreter of
the environment starts, for vLLM starts fresh ones that import torchvision before any plugin.

Starting costs one small class and no further import, which is not measurable in a process that imports
anything at all: torch is imported only once somebody imports torchvision, which does so anyway. Where
torchvision's ops load, nothing is declared. Written for torchvision 0.28 and torch 2.13.
"""

import sys

TYPE_CHECKING = False  # as in `typing`, which is not imported at start-up
if TYPE_CHECKING:
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


def _compiled_library(package_folders: list[str]) -> str | None:
    from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder

    for folder in package_folders:
        spec = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
        if spec is not None:
            return spec.origin
    return None


class TorchvisionFinder:
    """Finds torchvision as Python would, and declares what it lacks just before its code runs."""

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module
        folders = list(spec.submodule_search_locations or [])

        def exec_module(module: "Any") -> None:
            declare_missing_ops(_compiled_library(folders))
            run(module)

        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 - mypy forbids assigning to a method
        return spec


def install() -> None:
    """Puts the finder before the others, once."""
    if TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, TorchvisionFinder)


install()
