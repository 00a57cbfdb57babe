"""`passepartout model train NAME` runs: both stages, a step each, into weights of the shipped kind."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from prompts.errors import ConfigError
from training.losses import Judge
from training.pico import judge
from training.pico.judge import JUDGE
from training.pico.members import MEMBERS
from training.pico.recipe import main, rounds_of
from training.pico.tasks import CATEGORIES, COUNTS, LINE_NAMES

pytestmark = pytest.mark.behaviour


def shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", ["pico-llava", "pico-blip2"])
def test_the_recipe_makes_weights_like_the_shipped_ones(name: str, tmp_path: Path) -> None:
    member = MEMBERS[name]
    arguments = [member.name, "--run", str(tmp_path / "run"), "--out", str(tmp_path / "weights")]
    arguments += ["--tower-steps", "1", "--language-steps", "1"]
    assert main(arguments) == 0
    for shipped in (member.tower_file, member.language_file):
        assert shapes(tmp_path / "weights" / shipped.name) == shapes(shipped)
    done = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()}
    assert len(done) == 1 + len(rounds_of(member))
    assert main(arguments) == 0
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()} == done


def test_the_judge_is_a_clip_that_knows_the_answers_and_has_a_tower_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([JUDGE, "--out", str(tmp_path), "--tower-steps", "1"]) == 0
    monkeypatch.setattr(judge, "WEIGHTS", tmp_path / judge.WEIGHTS.name)
    (tmp_path / "built").mkdir()
    judge.build_judge(tmp_path / "built")
    asked = Judge(tmp_path / "built", torch.device("cpu"))
    for answer in (*CATEGORIES, *COUNTS, *LINE_NAMES):
        assert asked.semantics(torch.rand(1, 3, 224, 224), [answer]).isfinite()
    with pytest.raises(ConfigError, match=r"tvp\.clip: expected a judge .* came none for 'yes'"):
        asked.semantics(torch.rand(1, 3, 224, 224), ["yes"])
