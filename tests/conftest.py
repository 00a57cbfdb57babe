"""What every test shares: the layer of a test, and an environment in which nothing leaves the machine.

A test names its layer with a marker, for a module with `pytestmark = pytest.mark.engine`; without one it is
`unit`. Helpers are imported by their path from the root: `from tests.engine.tiny import …`.
"""

import os
from pathlib import Path

import pytest

LAYERS = ("unit", "browser", "engine", "behaviour")

# Before torch, vLLM or huggingface_hub are imported; whoever sets a variable keeps it.
_DEFAULTS = {
    "OMP_NUM_THREADS": "2",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}
_BESIDE_OTHERS = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""In a worker of `pytest -n`: threads that wait for each other beside another process cost half the time."""
if "PYTEST_XDIST_WORKER" in os.environ:
    _DEFAULTS |= _BESIDE_OTHERS
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks a test without a layer as `unit`; a test with two is a fault."""
    for item in items:
        layers = [layer for layer in LAYERS if item.get_closest_marker(layer)]
        if not layers:
            item.add_marker(pytest.mark.unit)
        elif len(layers) > 1:
            raise pytest.UsageError(f"{item.nodeid} names two layers: {', '.join(layers)}")


@pytest.fixture(scope="session")
def pico_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, built once a session where `PASSEPARTOUT_HOME` = its second parent finds it."""
    from training.pico.build import build_model

    return build_model("pico-llava", tmp_path_factory.mktemp("home") / "models" / "pico-llava")
