"""Makes Triton run on a CPU, slowly, for vLLM 0.32's model runner V2: to be loaded before vLLM is.

    python -m pytest -p tests.engine.triton_on_cpu tests/engine/test_scheduling.py

On a GPU runner V2 is vLLM's default. vLLM ships it for CPUs too (`vllm/v1/worker/cpu/model_runner.py`), for
the triton-cpu compiler, which PyPI does not have. Ordinary Triton has an interpreter for kernels, and vLLM
asks no more of a compiler for CPUs than to be listed.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

from triton.backends import Backend, backends  # it reads the environment

__all__ = ["CpuDriver"]


class CpuDriver(backends["nvidia"].driver):
    """Nothing of it is ever called: interpreted kernels ask no driver."""

    @staticmethod
    def is_active() -> bool:
        """vLLM takes a compiler with an active driver for one that works."""
        return True


backends["cpu"] = Backend(compiler=backends["nvidia"].compiler, driver=CpuDriver)
