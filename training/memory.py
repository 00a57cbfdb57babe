"""How a training job uses memory: one allocator setting that decides its speed on a CPU, and its peak."""

import ctypes
import resource
import sys
from pathlib import Path

__all__ = ["keep_freed_memory", "peak_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1
_KILOBYTE = 1024


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed memory instead of handing it back to the system.

    A training step frees and takes the same large tensors again and again; glibc maps each anew, and the page
    faults cost more than the arithmetic (measured on 2 virtual cores: a small text encoder's forward and
    backward 1.76 s before, 0.05 s after). Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)


def peak_memory() -> dict[str, int]:
    """The most bytes this process has held: `peak_bytes`, and on a GPU `peak_device_bytes` (of tensors)."""
    import torch

    peaks = {"peak_bytes": _peak_resident()}
    if torch.cuda.is_available():
        peaks["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    return peaks


def _peak_resident() -> int:
    """Linux tells it of the program alone; `ru_maxrss` knows the process before its exec too."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILOBYTE
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * _KILOBYTE
