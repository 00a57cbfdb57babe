"""Files of weights that others saved, read without running any code of theirs.

By safetensors, or by `torch.load` with `weights_only=True`. Offline: nothing that serves imports this.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prompts.contents import DTYPES
from prompts.errors import InputError
from prompts.faults import fault

__all__ = ["read_weights", "refused", "storable"]

_BROKEN = (RuntimeError, EOFError, ValueError, AssertionError, LookupError, TypeError, AttributeError)
"""What torch's reader raises on broken bytes."""


def read_weights(file: Path) -> Tensor | dict[str, Tensor]:
    """What a file holds: a tensor, or those of its mapping's values that are tensors.

    Raises:
        InputError: no such file, broken bytes, or objects other than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        held: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        came = error.strerror or type(error).__name__
        raise refused(file, "a file of weights", came, "correct the path") from error
    except pickle.UnpicklingError as error:
        cure = "no code of a file is run here: save its state dict alone"
        raise refused(file, "tensors alone", "a pickle of other objects, or of none", cure) from error
    except (SafetensorError, *_BROKEN) as error:
        came = f"something else ({str(error).partition(chr(10))[0][:120]})"
        raise refused(file, "a file of weights", came, "download it again") from error
    if isinstance(held, Tensor):
        return held
    if not isinstance(held, dict):
        raise refused(file, "tensors by name", type(held).__name__, "save its state dict alone")
    return {str(name): value for name, value in held.items() if isinstance(value, Tensor)}


def refused(source: Path, expected: str, came: str, cure: str) -> InputError:
    """The error about a file or folder, by its name alone."""
    return InputError(fault(source.name, expected=expected, came=came, cure=cure))


def storable(tensor: Tensor) -> Tensor:
    """The same values in a dtype that a bundle may hold."""
    return tensor if tensor.dtype in DTYPES.values() else tensor.float()
