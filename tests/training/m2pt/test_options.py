"""M²PT's options: layers with prompts of their own, first values, the output layer, reparametrisation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from prompts.bundle import save_bundle
from prompts.deep import xavier_prompts, xavier_rms
from prompts.errors import ConfigError
from prompts.manifest import Manifest
from tests.engine.oracle import Oracle
from tests.engine.tiny_llava import HIDDEN, LAYERS, VISION_HIDDEN, VISION_LAYERS, VOCABULARY
from tests.training.conftest import random_picture
from tests.training.jobs import QUESTION, m2pt_job
from training.backbone import LlavaBackbone
from training.config import M2ptConfig, M2ptOptions
from training.m2pt import train_m2pt
from training.m2pt.learned import fresh
from training.m2pt.reparametrisation import fold

EVERYTHING = {
    "text_layers": [0, 2],
    "vision_layers": "first",
    "mode": "paper",
    "lm_head": True,
    "init": "vocabulary",
    "reparametrisation": 5,
}


def checkpoint(config: M2ptConfig) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(config.out / "checkpoint.pt", weights_only=True)
    return saved


@pytest.mark.parametrize(
    ("text", "vision", "text_at", "vision_at"),
    [
        ("all", "all", None, None),
        ("first", "odd", (0,), (0, 2)),
        ("odd", "top_half", (0, 2), (2, 3)),
        ([1], [0, 3], (1,), (0, 3)),
    ],
)
def test_layers_with_prompts_of_their_own(
    tiny_folder: Path,
    picture_folder: Path,
    tmp_path: Path,
    text: Any,
    vision: Any,
    text_at: Any,
    vision_at: Any,
) -> None:
    options = {"text_layers": text, "vision_layers": vision}
    bundle = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "out", options))
    specs = bundle.manifest.text, bundle.manifest.vision
    assert [spec and spec.at for spec in specs] == [text_at, vision_at]
    generator = torch.Generator().manual_seed(42)
    begun = {
        "text.prompts": xavier_prompts(LAYERS, 3, HIDDEN, generator)[list(text_at or range(LAYERS))],
        "vision.prompts": xavier_prompts(VISION_LAYERS, 2, VISION_HIDDEN, generator)[
            list(vision_at or range(VISION_LAYERS))
        ],
    }
    for name, first in begun.items():
        assert bundle.tensors[name].shape == first.shape
        assert (bundle.tensors[name] != first.bfloat16()).any()
        torch.testing.assert_close(
            bundle.tensors[name].float(), first, atol=0.05, rtol=0
        )  # three steps of 0.01


def test_layers_that_are_none_are_named(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    options = {"text_layers": [0, 9], "vision_layers": [4]}
    with pytest.raises(ConfigError) as caught:
        train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "out", options))
    assert caught.value.faults == [
        "m2pt.text_layers: expected layers 0 to 2, came 9; name one of those",
        "m2pt.vision_layers: expected layers 0 to 3, came 4; name one of those",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_layers": [2, 0]}, r"expected each layer once, in order, came \[2, 0\]; write \[0, 2\]"),
        ({"text_layers": []}, "text_layers"),
        ({"vision_layers": "latter"}, "vision_layers"),
        ({"init": "text"}, "expected init_text with init: text alone, came init: text without it"),
        ({"init": "xavier", "init_text": "a"}, "expected init_text .*, came init: xavier beside it"),
        ({"init_text": "a", "init_bundle": "b"}, "expected init_bundle .*, came init: text beside it"),
        ({"init": "vocabulary", "text_length": 0}, "expected a text_length for init: vocabulary"),
        ({"lm_head": True, "text_length": 0}, "expected a text_length beside lm_head, came 0"),
        (
            {"reparametrisation": 8, "text_length": 0, "vision_length": 0},
            "expected prompts for reparametrisation",
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        M2ptOptions.model_validate(options)


def test_a_text_or_a_bundle_says_where_to_begin() -> None:
    assert M2ptOptions().init == "xavier"
    assert M2ptOptions.model_validate({"init_text": "a heron"}).init == "text"
    again = {"init_text": None, "init_bundle": "runs/a/bundle", "init": None}
    assert M2ptOptions.model_validate(again).init == "bundle"


def test_first_values_from_the_vocabulary_are_hidden_states_of_tokens(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path
) -> None:
    """At layer 0 rows of the embedding, as long as xavier rows; deeper what the model makes of them there."""
    config = m2pt_job(tiny_folder, picture_folder, tmp_path, {"init": "vocabulary", "text_length": 5})
    rows = fresh(config, tiny).tensors["text.prompts"].detach()
    assert torch.equal(rows, fresh(config, tiny).tensors["text.prompts"])
    table = tiny.model.get_input_embeddings().weight
    lengths = table.square().mean(-1, keepdim=True).sqrt()
    table = table * xavier_rms(5, HIDDEN) / lengths.clamp_min(1e-12)
    ids = torch.cdist(rows[0], table).argmin(1)
    torch.testing.assert_close(rows[0], table[ids])
    assert len(set(ids.tolist())) > 1
    assert not set(ids.tolist()) & {tiny.chat.image_token_id, *tiny.processor.tokenizer.all_special_ids}
    with torch.no_grad():
        states = tiny.decoder(input_ids=ids[None], output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        expected = states[layer][0] / states[layer][0].square().mean(-1, keepdim=True).sqrt()
        torch.testing.assert_close(rows[layer] / xavier_rms(5, HIDDEN), expected, atol=1e-4, rtol=1e-4)
    other = config.model_copy(update={"seed": 7})
    assert not torch.equal(fresh(other, tiny).tensors["text.prompts"], rows)


def test_the_output_layer_is_learned_only_if_asked(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path
) -> None:
    plain = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "plain", steps=1))
    assert not plain.manifest.lm_head
    assert plain.lm_head_weight is None
    options = {"lm_head": True, "lm_head_lr": 0.125}
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "head", options, steps=1, warmup=0.0)
    bundle = train_m2pt(config)
    assert bundle.manifest.lm_head
    learned = checkpoint(config)["tensors"]["lm_head.weight"]
    assert learned.shape == (VOCABULARY, HIDDEN)
    moved = (learned - tiny.head_weight).abs().max().item()
    assert moved == pytest.approx(0.125, rel=0.01)  # Adam's first step is about the rate
    assert torch.equal(bundle.tensors["lm_head.weight"], learned.bfloat16())


def test_reparametrised_prompts_are_folded_away(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """The bundle holds what rows and MLP came to, bit for bit after rounding, and nothing of the MLP."""
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "out", {"reparametrisation": 7})
    bundle = train_m2pt(config)
    plain = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "plain"))
    assert bundle.shapes == plain.shapes
    saved = checkpoint(config)["tensors"]
    for side in ("text", "vision"):
        prefix = f"{side}.mlp."
        mlp = {name.removeprefix(prefix): t for name, t in saved.items() if name.startswith(prefix)}
        assert sorted(mlp) == ["down.bias", "down.weight", "up.bias", "up.weight"]
        assert mlp["up.weight"].abs().max() > 0
        rows = saved[f"{side}.prompts"]
        folded = fold(rows, mlp).bfloat16()
        assert torch.equal(bundle.tensors[f"{side}.prompts"], folded)
        assert not torch.equal(folded, rows.bfloat16())


def test_an_mlp_changes_no_first_value(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path
) -> None:
    values = []
    for options in ({}, {"reparametrisation": 4}):
        config = m2pt_job(tiny_folder, picture_folder, tmp_path, {"init": "vocabulary", **options})
        values.append(fresh(config, tiny).values())
    assert values[0].keys() == values[1].keys()
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
def test_what_is_trained_is_what_is_served(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The loop's own forward pass, MLPs and all, gives the oracle's log-probabilities under the bundle."""
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "out", options)
    manifest = train_m2pt(config).manifest
    learned = fresh(config, tiny)
    learned.load(checkpoint(config)["tensors"])
    with torch.no_grad():
        values = {name: tensor.clone() for name, tensor in learned.values().items()}
        bundle = save_bundle(tmp_path / "float32", Manifest.model_validate(manifest), values)
        deep = learned.deep()
        features = tiny.image_features(tiny.process([random_picture(3)]), deep)
        encoded = tiny.chat.encode(tiny.chat.render(QUESTION, picture=True), "seven")
        loss = tiny.answer_loss(tiny.collate([encoded], features), features, deep)
    text = tiny.chat.render(QUESTION, picture=True).removeprefix(
        "<s>"
    )  # the oracle's tokenizer puts it there
    oracle = Oracle(tiny_folder).logprobs(text, [random_picture(3)], bundle, encoded.answer[:-1])
    theirs = oracle[-len(encoded.answer) :].gather(1, torch.tensor(encoded.answer)[:, None])
    torch.testing.assert_close(loss, -theirs.mean(), atol=1e-4, rtol=1e-4)
