"""The configs in `examples/` are ones the commands take; no model is needed to know that."""

import re
from pathlib import Path

import pytest
import yaml

from training.config import EvaluateConfig, M2ptConfig, TvpConfig, read_config
from training.pico.judge import JUDGE
from training.pico.members import MEMBERS
from training.pico.tasks import INSTRUCTIONS_SEEN, INSTRUCTIONS_UNSEEN
from training.report.m2pt.config import METHODS
from training.report.m2pt.config import ReportConfig as M2ptReportConfig
from training.report.tvp.config import ReportConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(file for file in EXAMPLES.rglob("*.yaml") if file.parent.name != "report")
LEAST_FILES = 7


def kind_of(file: Path) -> type[EvaluateConfig] | type[M2ptConfig] | type[TvpConfig]:
    """By what a person would run it with: the file's comment names the command, or its parts do."""
    text = file.read_text(encoding="utf-8")
    if file.name.startswith("evaluate"):
        return EvaluateConfig
    return TvpConfig if "\ntvp:" in text else M2ptConfig


def test_the_examples_are_found() -> None:
    assert len(FILES) >= LEAST_FILES
    assert {"tvp.yaml", "m2pt.yaml"} <= {file.name for file in (EXAMPLES / "llava-1.5-7b").iterdir()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_an_example_is_valid(file: Path) -> None:
    assert read_config(kind_of(file), file).model == Path("models") / (
        "llava-1.5-7b-hf" if file.parent.name == "llava-1.5-7b" else "pico-llava"
    )


def test_the_tvp_reports_example_is_valid() -> None:
    config = read_config(ReportConfig, EXAMPLES / "report" / "tvp.yaml")
    assert set(config.models) == set(MEMBERS)
    assert config.recipe.clip == Path("models") / JUDGE
    assert len(config.seeds) >= 3


def test_the_m2pt_reports_example_is_valid() -> None:
    """Every method, each with its rate; the mix's instructions, those never seen apart."""
    config = read_config(M2ptReportConfig, EXAMPLES / "report" / "m2pt.yaml")
    assert set(config.methods) == set(METHODS)
    assert len(config.seeds) >= 3
    assert {data.task for data in config.unseen.values()} == set(INSTRUCTIONS_UNSEEN)
    assert {data.task for data in config.seen.values()} == set(INSTRUCTIONS_SEEN)


def test_the_held_out_instructions_are_two_halves() -> None:
    """Rates are chosen on trained instructions alone: one half trains, the other is measured, then turned."""
    names = ("m2pt-held-out-a.yaml", "m2pt-held-out-b.yaml")
    halves = [read_config(M2ptReportConfig, EXAMPLES / "report" / name) for name in names]
    trained = [{part.data.task for part in half.train.parts} for half in halves]
    measured = [{data.task for data in half.unseen.values()} for half in halves]
    assert trained == measured[::-1]
    assert not trained[0] & trained[1]
    assert trained[0] | trained[1] == set(INSTRUCTIONS_SEEN)
    assert [{data.task for data in half.seen.values()} for half in halves] == trained
    assert {data.split for half in halves for data in (half.unseen | half.seen).values()} == {"val"}
    assert halves[0].recipe == halves[1].recipe
    assert halves[0].rates == halves[1].rates


def test_the_papers_settings_of_tvp() -> None:
    """Batch 16, one epoch of CIFAR-10's 50,000 pictures, lr 10, λ = 0.005 and 0.001, 224 and 164 pixels."""
    config = read_config(TvpConfig, EXAMPLES / "llava-1.5-7b" / "tvp.yaml")
    assert config.batch * config.accumulate == 16
    assert config.steps == 50_000 // 16
    assert (config.lr, config.seed, config.warmup) == (10.0, 42, 0.0)
    assert (config.tvp.lambda_fca, config.tvp.lambda_tse) == (0.005, 0.001)
    assert (config.tvp.frame.canvas, config.tvp.frame.inner) == ((224, 224), 164)
    assert config.tvp.frame.value_range == "unbounded"


@pytest.mark.parametrize("name", ["m2pt.yaml", "m2pt-8gpus.yaml"])
def test_the_papers_settings_of_m2pt(name: str) -> None:
    """Batch 16 × 2, 3 epochs of 191 tasks × 1,000, AdamW 7e-4 with 3 % warm-up and no decay."""
    config = read_config(M2ptConfig, EXAMPLES / "llava-1.5-7b" / name)
    assert config.batch * config.accumulate == 32
    assert config.steps == 3 * 191_000 // 32
    assert (config.lr, config.warmup, config.m2pt.weight_decay) == (7e-4, 0.03, 0.0)
    assert (config.m2pt.text_length, config.m2pt.vision_length, config.m2pt.mode) == (10, 10, "released")
    assert config.m2pt.projector


def test_the_yaml_in_the_guide_is_yaml() -> None:
    """Every block of docs/training.md; the first, with a part `tvp` of a later one, is a whole config."""
    guide = (EXAMPLES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)]
    assert len(blocks) == 4
    whole, frame, data, report = blocks
    assert M2ptConfig.model_validate(whole).steps == 300
    assert TvpConfig.model_validate({**whole, **frame}).tvp.frame.value_range == "unit"
    assert M2ptConfig.model_validate({**whole, **data}).data.kind == "llava_json"
    assert ReportConfig.model_validate(report).sources == ("first",)
