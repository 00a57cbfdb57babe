"""The memory worked out beforehand: against what a layer keeps, and as the example's README states it."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from tests.training.jobs import m2pt_job
from training.config import M2ptConfig, read_config
from training.m2pt.budget import (
    Budget,
    expected_memory,
    kept_in_layer,
    kept_in_tower_layer,
    main,
    trained_values,
)

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "llava-1.5-7b"
ROWS = {
    "frozen weights in bfloat16": "weights",
    "two layers on their way (`shard`)": "gathered",
    "learned values with gradient and AdamW": "learned",
    "inputs of all layers": "layers",
    "inside of one layer, there and back": "one_layer",
    "logits of the answers": "logits",
    "together": "total",
}


@pytest.fixture(scope="module")
def llava() -> LlavaForConditionalGeneration:
    """LLaVA-1.5-7B's shapes without its weights (transformers' defaults, and the hub's vocabulary)."""
    config = LlavaConfig()
    config.text_config.vocab_size = 32_064
    with torch.device("meta"):
        return LlavaForConditionalGeneration(config)


@pytest.mark.parametrize("key_heads", [8, 2])
def test_a_layer_keeps_what_is_counted(key_heads: int) -> None:
    """Bytes for each row that one frozen layer in bfloat16 saves for the way back, weights left out."""
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_attention_heads=8,
        num_key_value_heads=key_heads,
        num_hidden_layers=1,
        attn_implementation="sdpa",
    )
    layer = LlamaDecoderLayer(config, 0).bfloat16().requires_grad_(False)
    rows = torch.randn(2, 96, 256, dtype=torch.bfloat16, requires_grad=True)
    angles = LlamaRotaryEmbedding(config)(rows, torch.arange(96)[None])
    kept = bytes_kept(lambda: layer(rows, position_embeddings=angles), (*layer.parameters(), *angles))
    assert kept / (2 * 96) == pytest.approx(kept_in_layer(config), rel=0.01)


def test_a_tower_layer_keeps_what_is_counted() -> None:
    config = CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_attention_heads=8, attn_implementation="sdpa"
    )
    layer = CLIPEncoderLayer(config).bfloat16().requires_grad_(False)
    rows = torch.randn(2, 96, 256, dtype=torch.bfloat16, requires_grad=True)
    kept = bytes_kept(lambda: layer(rows, None), layer.parameters())
    assert kept / (2 * 96) == pytest.approx(kept_in_tower_layer(config), rel=0.02)


def bytes_kept(run: Callable[[], object], shared: Iterable[Tensor]) -> int:
    """What `run` saves for the way back, without the tensors named."""
    known = {one.untyped_storage().data_ptr() for one in shared}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


def columns() -> list[tuple[M2ptConfig, int]]:
    """The table's columns: config and processes."""
    one, eight = (EXAMPLE / name for name in ("m2pt.yaml", "m2pt-8gpus.yaml"))
    shared = read_config(M2ptConfig, eight, ["shard=true"])
    return [(read_config(M2ptConfig, one), 1), (read_config(M2ptConfig, eight), 8), (shared, 8)]


def test_the_readmes_figures_are_the_counted_ones(llava: LlavaForConditionalGeneration) -> None:
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    budgets = [expected_memory(llava, config, processes=count) for config, count in columns()]
    for label, name in ROWS.items():
        cells = [f"{getattr(budget, name) / 1e9:.2f}" for budget in budgets]
        assert f"| {label} | {' | '.join(cells)} |" in readme
    assert len(re.findall(r"^\| .* \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", readme, flags=re.MULTILINE)) == len(
        ROWS
    )
    plain = columns()[0][0].model_copy(update={"gradient_checkpointing": False})
    assert (
        f"{expected_memory(llava, plain).layers / 1e9:.2f} GB in place of {budgets[0].layers / 1e9:.2f}"
        in readme
    )
    sizes = trained_values(llava, columns()[0][0])
    assert f"{sizes.prompts:,} prompt values" in readme
    assert f"{sizes.projector:,} of the projector" in readme
    assert f"{sizes.total:,}" in readme


def test_the_examples_fit(llava: LlavaForConditionalGeneration) -> None:
    """24 GiB with two to spare for CUDA, and 16 GiB where the model is shared out."""
    whole, eight, shared = (expected_memory(llava, config, processes=count) for config, count in columns())
    assert max(whole.total, eight.total) < 22 * 2**30
    assert shared.total < 14 * 2**30


def test_what_each_option_costs(llava: LlavaForConditionalGeneration, tmp_path: Path) -> None:
    settings = {"batch": 8, "dtype": "bfloat16"}

    def budget(processes: int = 1, m2pt: dict[str, object] | None = None, **changes: object) -> Budget:
        config = m2pt_job(tmp_path, tmp_path, tmp_path, m2pt, **{**settings, **changes})
        return expected_memory(llava, config, processes=processes)

    plain = budget()
    less = budget(gradient_checkpointing=True)
    assert less.layers < plain.layers / 10
    assert plain.weights == less.weights == 2 * 7_063_427_072
    assert budget(processes=2).logits * 2 == plain.logits
    head = budget(m2pt={"lm_head": True})
    assert head.learned - plain.learned == 18 * 32_064 * 4096
    shared = budget(processes=2, shard=True)
    layers = 32 * 202_383_360
    assert plain.weights - shared.weights == layers  # half of them, two bytes each
    assert shared.gathered == 2 * 2 * 202_383_360


def test_the_command_reads_the_config_alone(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "model"
    bare.mkdir()
    (bare / "config.json").write_text((tiny_folder / "config.json").read_text())
    config = m2pt_job(bare, tmp_path, tmp_path)
    (tmp_path / "job.yaml").write_text(config.model_dump_json())
    assert main(["--config", str(tmp_path / "job.yaml"), "--set", "gradient_checkpointing=true"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.rsplit(maxsplit=2)[0] for line in printed][-2:] == ["logits", "total"]
