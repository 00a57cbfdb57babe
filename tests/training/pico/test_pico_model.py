"""pico-llava as built: it loads in transformers without custom code, and it knows the names it was taught."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prompts.fingerprint import base_model_ref
from training.backbone import LlavaBackbone
from training.evaluate import evaluate, score_of
from training.pico.build import is_current
from training.pico.language_model import IMAGE_TOKEN, merged
from training.pico.members import MEMBERS, Member
from training.pico.tasks import make_source

MAX_WEIGHT_BYTES = 12_000_000
NAMED_RIGHT = 0.85
"""The aim; these weights name 0.88 of the 200 pictures."""


@pytest.mark.unit
@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_the_weights_in_the_repository_are_small_and_bf16(member: Member) -> None:
    files = (member.tower_file, member.language_file)
    assert sum(file.stat().st_size for file in files) <= MAX_WEIGHT_BYTES
    for file in files:
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}


@pytest.mark.unit
def test_a_low_rank_update_is_added_to_its_weight_alone() -> None:
    state = {
        "layers.0.self_attn.q_proj.weight": torch.ones(2, 3, dtype=torch.bfloat16),
        "norm.weight": torch.ones(3),
    }
    a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    path = "updates.model.layers.0.self_attn.q_proj"
    both = merged(state, {f"{path}.a": a, f"{path}.b": b})
    assert torch.equal(
        both["layers.0.self_attn.q_proj.weight"].float(), torch.tensor([[2.0, 3, 4], [0, -1, -2]])
    )
    assert torch.equal(both["norm.weight"], state["norm.weight"])


@pytest.mark.behaviour
def test_it_is_a_standard_llava_checkpoint(pico_llava: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    _, report = LlavaForConditionalGeneration.from_pretrained(pico_llava, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    processor = AutoProcessor.from_pretrained(pico_llava)
    config = json.loads((pico_llava / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert "auto_map" not in config
    assert processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == config["image_token_index"]
    assert is_current("pico-llava", pico_llava)


@pytest.mark.behaviour
def test_shipped_bundles_were_trained_on_this_very_model(pico_llava: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    manifests = sorted(root.glob("examples/tasks/*/bundle.json"))
    assert len(manifests) >= 3
    for manifest in manifests:
        base = json.loads(manifest.read_text(encoding="utf-8"))["base_model"]
        assert base is None or base["fingerprint"] == base_model_ref(pico_llava).fingerprint


@pytest.mark.behaviour
def test_it_names_held_out_pictures_of_known_glyphs(pico_llava: Path) -> None:
    """The measure of pico-llava: 10 candidates, mean log-likelihood per token, pictures of the test split."""
    backbone = LlavaBackbone.load(pico_llava)
    found = score_of(list(evaluate(backbone, make_source("name", "test", 200, 0))))
    assert found.accuracy >= NAMED_RIGHT, f"named {found}"


@pytest.mark.behaviour
def test_it_answers_in_whole_words(pico_llava: Path) -> None:
    backbone = LlavaBackbone.load(pico_llava)
    source = make_source("name", "test", 24, 1)
    graded = list(evaluate(backbone, source, how="generation"))
    assert all(one.said and one.said.replace(" ", "").replace("-", "").isalpha() for one in graded)
    assert sum(one.right for one in graded) >= 6, "named freely, one of 320 names"
