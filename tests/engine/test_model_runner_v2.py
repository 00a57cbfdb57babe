"""vLLM's model runner V2, the default on a GPU, on this CPU: the tests of `test_scheduling` once more.

Its kernels run in Triton's interpreter (`triton_on_cpu.py`), in a process of their own. Not run so: CUDA
graphs, async scheduling and pinned uploads (`python -m benchmarks.gpu_smoke` on a GPU machine does), and the
kernels for top-k and structured output, which the interpreter does not take (the sampler is vLLM's own).

What runner V2 of vLLM 0.32 does that `PromptedModel` relies on (`vllm/v1/worker/gpu/`):

- `mm/encoder_runner.py`, `execute_mm_encoder`: `embed_multimodal(**kwargs)` for a batch of one modality. The
  items that it gives are kept by hash where they are, ours as int64 on the CPU; each must be a matrix.
- `gather_mm_embeddings`: slices of those items in the order of the step's tokens, and `is_multimodal` (T,) on
  the CPU. A request that only decodes brings nothing; with only such requests the list is empty.
- `model_states/default.py`, `prepare_inputs_embeds`: `embed_input_ids(ids, embeddings, is_multimodal)` before
  each real step, empty list or not, with as many ids as there are tokens: so `clear_step` runs each time, and
  rows that a CUDA graph was padded with are never marked.
- `model_runner.py`, `execute_model`: a dummy run (warm-up, graph capture, idle rank) calls neither. It sees
  the rows of the step before it, and no one reads what it computes.
- The same place: a graph replays on the bank's buffers, which are filled in place and never replaced.
- The scheduler sends a preempted request as a new one, from token 0 or from what the prefix cache still has.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["-m", "pytest", "-p", "tests.engine.triton_on_cpu", "-p", "no:cacheprovider", "-q", "--tb=short"]
LEFT_OUT = "choices"


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed here")
def test_scheduling_holds_on_runner_v2() -> None:
    arguments = [*COMMAND, "tests/engine/test_scheduling.py", "-k", f"not {LEFT_OUT}"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:]
    told = re.search(r"(\d+) passed, 1 deselected", done.stdout)
    assert told, done.stdout[-500:]
    assert int(told[1]) >= 15
