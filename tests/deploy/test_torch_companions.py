"""The cure of torchvision and torchaudio: in every process, idle until needed, silent where they load."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import passepartout_torch

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, *flags: str) -> object:
    """Runs code in a fresh interpreter, away from the checkout; `report(x)` in it sends x back."""
    prelude = "import json, sys\ndef report(x): print('\\n' + json.dumps(x))\n"
    done = subprocess.run(
        [sys.executable, *flags, "-c", prelude + code], cwd="/", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_fresh_interpreter_has_the_finder_and_none_of_torchs_packages() -> None:
    state = run_python(
        "report([getattr(f, '__name__', '') for f in sys.meta_path][:1] + "
        "[name in sys.modules for name in ('torch', 'torchvision', 'torchaudio')])"
    )
    assert state == ["CompanionFinder", False, False, False]


def test_starting_it_imports_nothing_else() -> None:
    added = run_python(
        f"sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); import passepartout_torch\n"
        "report(sorted(set(sys.modules) - before))",
        "-S",
    )
    assert added == ["passepartout_torch"]


def test_torchvision_transforms_a_float_tensor_and_keeps_what_lies_outside_0_and_1() -> None:
    values = run_python(
        "import torch, torchvision.transforms.v2.functional as F\n"
        "report(F.resize(torch.full((3, 4, 4), 1.5), [2, 2], antialias=True).unique().tolist())"
    )
    assert values == [1.5]


def test_nms_is_declared_whether_or_not_it_can_run() -> None:
    assert run_python(
        "import torch, torchvision\nreport(str(torch.ops.torchvision.nms.default._schema))"
    ) == ("torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def test_nothing_is_declared_where_the_library_loads() -> None:
    """torch's own libc10 stands for a torchvision library that fits."""
    state = run_python(
        "import pathlib, torch, passepartout_torch as cure\n"
        "library = pathlib.Path(torch.__file__).parent / 'lib' / 'libc10.so'\n"
        "declared = cure.declare_missing_ops(str(library))\n"
        "report([library.is_file(), declared, len(cure._kept), hasattr(torch.ops.torchvision, 'nms')])"
    )
    assert state == [True, False, 0, False]


@pytest.mark.parametrize("library", ["None", "'/nowhere/_C.so'"])
def test_the_schemas_are_declared_once_where_no_library_loads(library: str) -> None:
    state = run_python(
        "import torch, passepartout_torch as cure\n"
        f"twice = [cure.declare_missing_ops({library}) for _ in range(2)]\n"
        "report([twice, len(cure._kept), [hasattr(torch.ops.torchvision, n) for n in ('nms', 'qnms')]])"
    )
    assert state == [[True, True], 1, [True, True]]


def test_torchaudio_can_be_imported_and_so_can_what_transformers_does_with_it() -> None:
    assert (
        run_python("import torchaudio, transformers.audio_utils\nreport(torchaudio.__name__)") == "torchaudio"
    )


def test_torchcodec_loads_or_fails_as_vllm_expects() -> None:
    """Without ffmpeg it raises a RuntimeError itself, which vLLM expects as well."""
    loaded = run_python(
        "try:\n    import torchcodec\nexcept (ImportError, RuntimeError) as error:\n"
        "    report(type(error).__name__)\nelse:\n    report('loaded')"
    )
    assert loaded in {"loaded", "ImportError", "RuntimeError"}


def test_a_library_that_does_not_load_is_one_that_is_not_there() -> None:
    def load(name: str) -> bool:
        if name == "broken":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return name == "good"

    assert [passepartout_torch.or_none(load)(name) for name in ("good", "missing", "broken")] == [
        True,
        False,
        False,
    ]


@pytest.mark.engine
def test_vllms_registry_process_imports_what_llava_needs(tmp_path: Path) -> None:
    """vLLM inspects model classes in a process of its own, started before any plugin of ours is loaded."""

    def inspect() -> bool:
        from transformers.models.pixtral import image_processing_pixtral
        from vllm.model_executor.models.llava import LlavaForConditionalGeneration

        return bool(image_processing_pixtral and LlavaForConditionalGeneration)

    answer = tmp_path / "answer"
    done = subprocess.run(
        [sys.executable, "-m", "vllm.model_executor.models.registry"],
        input=cloudpickle.dumps((inspect, str(answer))),
        capture_output=True,
        cwd="/",
        env=os.environ | {"VLLM_PLUGINS": ""},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert pickle.loads(answer.read_bytes()) is True
