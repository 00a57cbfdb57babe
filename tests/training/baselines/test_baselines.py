"""LoRA, prompt tuning and full fine-tuning in M²PT's loop: where they begin, what they leave."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prompts.errors import ConfigError
from prompts.manifest import Usage
from tests.engine.tiny_llava import HEAD_DIM, HIDDEN, KV_HEADS, LAYERS
from tests.training.conftest import random_picture
from tests.training.jobs import QUESTION, baseline_job, halt_at, m2pt_job
from training.backbone import DeepPrompts, LlavaBackbone
from training.baselines import Saved, load_saved, train_baseline
from training.baselines.full import FullWeights, load_full
from training.baselines.job import _begin as begin
from training.config import BaselineConfig
from training.data import Example

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
LORA: dict[str, Any] = {"kind": "lora", "rank": 2}
PROMPT: dict[str, Any] = {"kind": "prompt_tuning", "length": 4}
FULL: dict[str, Any] = {"kind": "full"}
EXAMPLE = Example(random_picture(1), QUESTION, "heron")


@pytest.fixture
def fresh_tiny(tiny_folder: Path) -> LlavaBackbone:
    """A model that a test may change."""
    return LlavaBackbone.load(tiny_folder, dtype="float32", device="cpu")


def loss_of(backbone: LlavaBackbone, deep: DeepPrompts | None = None) -> Tensor:
    deep = deep or DeepPrompts()
    features = backbone.image_features(backbone.process([EXAMPLE.picture]), deep)
    batch = backbone.collate([backbone.encode_example(EXAMPLE, Usage())], features)
    return backbone.answer_loss(batch, features, deep)


def own_loss(model: Any, backbone: LlavaBackbone) -> Tensor:
    """The same loss by the model's own forward pass on its own processor's inputs."""
    rendered = backbone.chat.render(QUESTION, picture=True)
    encoded = backbone.chat.encode(rendered, EXAMPLE.answer)
    inputs = backbone.processor(
        images=[EXAMPLE.picture], text=[rendered], return_tensors="pt", add_special_tokens=False
    )
    answer = torch.tensor([encoded.answer])
    ids = torch.cat([inputs["input_ids"], answer], 1)
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], 1)
    return model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=inputs["pixel_values"],
        labels=labels,
    ).loss


def job(tiny_folder: Path, picture_folder: Path, out: Path, learns: dict[str, Any], **changes: Any) -> Any:
    return baseline_job(tiny_folder, picture_folder, out, learns, **changes)


@pytest.mark.parametrize("rank", [1, 3])
def test_lora_has_its_rank_on_every_linear_layer_and_begins_as_nothing(
    rank: int, fresh_tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    before = loss_of(fresh_tiny)
    learned = begin(job(tiny_folder, picture_folder, tmp_path, {**LORA, "rank": rank}), fresh_tiny)
    inner = fresh_tiny.config.text_config.intermediate_size
    keys = KV_HEADS * HEAD_DIM
    ends = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + keys) + 3 * (HIDDEN + inner)  # q, o; k, v; gate, up, down
    assert sum(tensor.numel() for tensor in learned.tensors.values()) == rank * LAYERS * ends
    assert {tensor.dtype for tensor in learned.tensors.values()} == {torch.float32}
    assert torch.equal(loss_of(fresh_tiny, learned.deep()), before)
    assert not [name for name in learned.tensors if "vision" in name or "projector" in name]


def test_a_prompt_of_peft_is_where_peft_has_it(
    fresh_tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    learned = begin(job(tiny_folder, picture_folder, tmp_path, PROMPT), fresh_tiny)
    learned.save(tmp_path / "adapter")
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    tuned = peft.PeftModel.from_pretrained(model.eval(), str(tmp_path / "adapter"))
    with torch.no_grad():
        ours, theirs = loss_of(fresh_tiny, learned.deep()), own_loss(tuned, fresh_tiny)
        assert abs(ours - loss_of(fresh_tiny)) > 1e-3
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_a_prompt_begins_as_the_text_that_is_told(
    fresh_tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    text = "what bird is this?"
    ids = fresh_tiny.chat.plain_ids(text)
    told = {**PROMPT, "length": len(ids) + 1, "init_text": text}
    learned = begin(job(tiny_folder, picture_folder, tmp_path, told), fresh_tiny)
    rows = fresh_tiny.model.get_input_embeddings()(torch.tensor([*ids, ids[0]]))
    assert learned.layout.text_length == len(ids) + 1
    torch.testing.assert_close(learned.tensors["prompt_embeddings"], rows)


def test_full_fine_tuning_gets_the_gradients_of_the_weights_themselves(
    fresh_tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    learned = FullWeights(job(tiny_folder, picture_folder, tmp_path, FULL), fresh_tiny)
    loss_of(fresh_tiny, learned.deep()).backward()
    model = LlavaForConditionalGeneration.from_pretrained(
        tiny_folder, dtype=torch.float32, attn_implementation="eager"
    )
    own_loss(model.eval(), fresh_tiny).backward()
    tower = {name for name, _ in model.named_parameters() if "vision_tower" in name}
    assert learned.tensors.keys() == dict(model.named_parameters()).keys() - tower
    for name, weight in model.named_parameters():
        if name in learned.tensors and weight.grad is not None:
            torch.testing.assert_close(learned.tensors[name].grad, weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learns", [LORA, PROMPT, FULL], ids=lambda learns: learns["kind"])
def test_what_is_saved_answers_as_what_was_trained(
    learns: dict[str, Any], tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    saved = train_baseline(job(tiny_folder, picture_folder, tmp_path / "out", learns))
    plain = LlavaBackbone.load(tiny_folder, dtype="float32", device="cpu")
    before = loss_of(plain)
    bundle = load_saved(saved, plain, tiny_folder, Usage(system="look"))
    deep = None if bundle is None else DeepPrompts.of_bundle(bundle, plain.device)
    assert (bundle is not None) == saved.is_prompt == (learns is PROMPT)
    assert bundle is None or bundle.manifest.usage.system == "look"
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["tensors"]
    assert saved.values == sum(tensor.numel() for tensor in state.values())
    again = LlavaBackbone.load(tiny_folder, dtype="float32", device="cpu")
    learned = begin(job(tiny_folder, picture_folder, tmp_path / "again", learns), again)
    learned.load(state)
    with torch.no_grad():
        measured, trained = loss_of(plain, deep), loss_of(again, learned.deep())
    assert abs(trained - before) > 0.05
    torch.testing.assert_close(measured, trained, atol=0.03, rtol=0)  # bfloat16 on disk


@pytest.mark.parametrize("learns", [LORA, FULL], ids=lambda learns: learns["kind"])
def test_a_run_that_broke_ends_as_the_unbroken_one(
    learns: dict[str, Any], tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    whole, broken = (job(tiny_folder, picture_folder, tmp_path / name, learns) for name in ("a", "b"))
    halt_at(2, train_baseline, broken)
    assert not (tmp_path / "b" / "adapter").exists()
    assert train_baseline(broken).digest == train_baseline(whole).digest


def test_the_examples_come_in_m2pts_order(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    """At a rate of nearly zero the losses are the plain model's on each step's batch."""
    from training.m2pt import train_m2pt

    still = {"lr": 1e-12, "canary": 0}
    train_baseline(job(tiny_folder, picture_folder, tmp_path / "a", LORA, **still))
    options = {"text_length": 0, "vision_length": 0, "projector": True}
    train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "b", options, **still))
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("a", "b")]
    losses = [[line.split('"loss": ')[1].split(",")[0] for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_weights_of_another_model_are_refused(
    fresh_tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    saved: Saved = train_baseline(job(tiny_folder, picture_folder, tmp_path / "out", FULL, steps=1))
    fresh_tiny.model.model.multi_modal_projector.linear_1.bias = None
    with pytest.raises(ConfigError, match=r"weights.safetensors: expected this model's weights, came others"):
        load_full(fresh_tiny, saved.folder)


def test_a_baseline_learns_nothing_of_m2pts() -> None:
    with pytest.raises(ValueError, match="text_length"):
        BaselineConfig.model_validate({"learns": FULL, "m2pt": {"text_length": 3}})
