"""`passepartout model train NAME` runs: both stages, a step each, into weights of the shipped kind."""

from pathlib import Path

import pytest
from safetensors import safe_open

from training.pico.members import MEMBERS, Member
from training.pico.recipe import main, rounds_of

pytestmark = pytest.mark.behaviour


def shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_the_recipe_makes_weights_like_the_shipped_ones(member: Member, tmp_path: Path) -> None:
    arguments = [member.name, "--run", str(tmp_path / "run"), "--out", str(tmp_path / "weights")]
    arguments += ["--tower-steps", "1", "--language-steps", "1"]
    assert main(arguments) == 0
    for shipped in (member.tower_file, member.language_file):
        assert shapes(tmp_path / "weights" / shipped.name) == shapes(shipped)
    done = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()}
    assert len(done) == 1 + len(rounds_of(member))
    assert main(arguments) == 0
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()} == done
