"""`passepartout model train pico-llava` runs: both stages, a step each, into weights of the shipped kind."""

from pathlib import Path

import pytest
from safetensors import safe_open

from training.pico.anatomy import WEIGHTS_FOLDER
from training.pico.recipe import ROUNDS, main

pytestmark = pytest.mark.behaviour


def shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def test_the_recipe_makes_weights_like_the_shipped_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "weights")]
    arguments += ["--tower-steps", "1", "--language-steps", "1"]
    assert main(arguments) == 0
    for name in ("clip.safetensors", "llava.safetensors"):
        assert shapes(tmp_path / "weights" / name) == shapes(WEIGHTS_FOLDER / name)
    done = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()}
    assert len(done) == 1 + len(ROUNDS)
    assert main(arguments) == 0
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()} == done
