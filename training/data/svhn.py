"""SVHN, format 2 (Netzer et al. 2011): cropped house numbers in MATLAB files."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompts.errors import ConfigError
from prompts.faults import fault
from training.data.config import SvhnData
from training.data.files import missing_faults, refuse
from training.data.items import ItemSource, array_source

__all__ = ["DIGITS", "open_svhn"]

DIGITS = tuple(str(digit) for digit in range(10))
_EXPECTED = "SVHN's format 2: X (32, 32, 3, n) uint8 and y (n, 1), whole numbers from 1 to 10 (10 means 0)"


def open_svhn(entry: SvhnData) -> ItemSource[int]:
    """The pictures of one split, interleaved by digit; label 10 means the digit 0.

    All pictures of the split are kept in memory (train 225 MB, extra 1.6 GB).

    Raises:
        ConfigError: scipy is not installed, the file is missing, or not in this layout.
    """
    file = entry.root / f"{entry.split}_32x32.mat"
    refuse(missing_faults("root", [file], expected=f"SVHN's {file.name}"))
    try:
        pictures, labels = _checked(_read(file))
    except ValueError as error:
        came, cure = f"{file}: {error}", "get the set's format 2 (cropped digits)"
        raise ConfigError("data", [fault("root", expected=_EXPECTED, came=came, cure=cure)]) from error
    return array_source(
        lambda number: pictures[..., number],
        [int(label) % 10 for label in labels],
        DIGITS,
        question=entry.question,
        limit=entry.limit,
    )


def _read(file: Path) -> dict[str, Any]:
    """The variables X and y of a MATLAB file.

    Raises:
        ConfigError: scipy is not installed.
        ValueError: no MATLAB file, or a broken one.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        expected, came = "scipy, which reads SVHN's .mat files", "none installed"
        problem = fault("kind", expected=expected, came=came, cure="pip install scipy")
        raise ConfigError("data", [problem]) from error
    broken = (MatReadError, OSError, TypeError, LookupError, NotImplementedError, zlib.error)
    try:
        found: dict[str, Any] = loadmat(file, variable_names=["X", "y"])
    except broken as error:
        raise ValueError(f"no readable MATLAB file ({error})") from error
    return found


def _checked(found: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """X (32, 32, 3, n) and y (n,).

    Raises:
        ValueError: one is missing or of another shape, or a label is none.
    """
    pictures, labels = found.get("X"), found.get("y")
    if not isinstance(pictures, np.ndarray) or not isinstance(labels, np.ndarray):
        raise ValueError(f"{' and '.join(name for name in 'Xy' if name not in found)} missing")
    is_whole = labels.dtype.kind in "iu" and pictures.dtype == np.uint8
    if not is_whole or not labels.size or pictures.shape != (32, 32, 3, labels.size):
        came = f"X {pictures.shape} {pictures.dtype} and y {labels.shape} {labels.dtype}"
        raise ValueError(came)
    foreign = labels[(labels < 1) | (labels > 10)]
    if foreign.size:
        raise ValueError(f"{foreign.size} labels out of range, the first of them {foreign.flat[0]}")
    return pictures, labels.ravel()
