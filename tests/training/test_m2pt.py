"""M²PT: what is learned and what is not, the mode's token counts, long answers, losses pinned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts.deep import count_parameters, xavier_prompts
from prompts.errors import ConfigError
from tests.engine.tiny_llava import HIDDEN, LAYERS, PATCHES, VISION_HIDDEN, VISION_LAYERS
from tests.training.conftest import random_picture
from tests.training.jobs import m2pt_job, make_llava_json
from training.backbone import DeepPrompts, LlavaBackbone
from training.m2pt import train_m2pt

# Losses of three steps on the tiny model (seed 0), float32, torch 2.13 CPU, computed by this test.
PINNED = {"released": [6.9646, 6.5388, 5.9121], "paper": [7.1386, 5.5624, 5.4249]}


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def fresh(seed: int = 42) -> dict[str, torch.Tensor]:
    """The prompts a job of `m2pt_job` starts from."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "text.prompts": xavier_prompts(LAYERS, 3, HIDDEN, generator),
        "vision.prompts": xavier_prompts(VISION_LAYERS, 2, VISION_HIDDEN, generator),
    }


@pytest.mark.parametrize("mode", PINNED)
def test_pinned_losses_and_what_moved(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path, mode: Any
) -> None:
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "out", {"mode": mode})
    bundle = train_m2pt(config)
    assert losses_of(config.out) == pytest.approx(PINNED[mode], rel=1e-3)

    text, vision = bundle.text_prompts, bundle.vision_prompts
    assert text is not None
    assert vision is not None
    begun = {name: tensor.bfloat16() for name, tensor in fresh().items()}
    moved = (vision != begun["vision.prompts"]).any(-1)
    assert (text != begun["text.prompts"]).any(-1).all()
    assert moved[:-1].all()
    # The last encoder layer is not run (features are read before it): of its prompts the language model gets
    # all rows but the first in mode released, and none in mode paper.
    assert moved[-1].tolist() == ([False, True] if mode == "released" else [False, False])
    for name, tensor in bundle.projector_state().items():
        assert not torch.equal(tensor, tiny.projector.state_dict()[name].bfloat16())


def test_a_job_may_begin_from_a_text(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path
) -> None:
    """A learning rate next to nothing shows the first values: the text's own hidden states."""
    length = len(tiny.chat.plain_ids("a heron"))
    options = {"init_text": "a heron", "text_length": length}
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "out", options, lr=1e-9, steps=1)
    text = train_m2pt(config).text_prompts
    assert text is not None
    torch.testing.assert_close(text.float(), tiny.text_prompts_of("a heron", length).bfloat16().float())


def test_a_job_may_begin_from_a_bundle(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    first = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "first"))
    options = {"init_bundle": str(tmp_path / "first" / "bundle")}
    second = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "second", options, lr=1e-9, steps=1))
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(second.tensors[name], tensor)
    begun_with = second.manifest.provenance.config["m2pt"]["init_bundle"]
    assert begun_with["digest"] == first.digest
    assert begun_with["provenance"] == first.manifest.provenance.model_dump(mode="json")
    options["text_length"] = 4
    with pytest.raises(
        ConfigError, match=r"m2pt\.init_bundle: expected .*text\.prompts \[\d+, 4, .*came .*, 3, "
    ):
        train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "third", options))


def test_a_choice_is_never_cut(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    changes = {"loss_over": "choices", "usage": {"choices": ["heron", "seven", "water bird"]}}
    options = {"max_length": 20}
    with pytest.raises(
        ConfigError, match=r"m2pt\.max_length: expected \d+ rows at least, .* came 20; raise it"
    ):
        train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "out", options, **changes))


def test_answers_outside_the_choices_are_found_before_the_first_step(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    changes = {"loss_over": "choices", "usage": {"choices": ["heron", "eight"]}}
    config = m2pt_job(tiny_folder, picture_folder, tmp_path / "out", **changes)
    with pytest.raises(
        ConfigError, match=r"data: expected answers among usage.choices, came 2 more, .*'seven'"
    ):
        train_m2pt(config)
    assert not (tmp_path / "out").exists()


def test_the_bundle_says_what_it_is(tiny_folder: Path, picture_folder: Path, tmp_path: Path) -> None:
    bundle = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "out", {"mode": "paper"}, steps=1))
    manifest = bundle.manifest
    assert {tensor.dtype for tensor in bundle.tensors.values()} == {torch.bfloat16}
    assert manifest.text is not None
    assert manifest.vision is not None
    assert (manifest.text.layers, manifest.text.length, manifest.text.hidden) == (LAYERS, 3, HIDDEN)
    assert (manifest.vision.layers, manifest.vision.length, manifest.vision.mode) == (
        VISION_LAYERS,
        2,
        "paper",
    )
    assert manifest.base_model is not None
    assert manifest.base_model.architecture == "LlavaForConditionalGeneration"
    counted = count_parameters(
        text_layers=LAYERS,
        text_length=3,
        text_hidden=HIDDEN,
        vision_layers=VISION_LAYERS,
        vision_length=2,
        vision_hidden=VISION_HIDDEN,
        projector_parameters=sum(tensor.numel() for tensor in bundle.projector_state().values()),
    )
    assert sum(bundle.trained_values.values()) == counted.total


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"vision_length": 0, "projector": False}, {"text.prompts"}),
        ({"text_length": 0, "projector": False}, {"vision.prompts"}),
        ({"text_length": 0, "vision_length": 0}, {"projector"}),
    ],
)
def test_each_part_can_be_learned_alone(
    tiny_folder: Path, picture_folder: Path, tmp_path: Path, options: dict[str, Any], parts: set[str]
) -> None:
    bundle = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path / "out", options, steps=1))
    found = {name if "prompts" in name else name.partition(".")[0] for name in bundle.tensors}
    assert found == parts


def test_text_alone_teaches_vision_nothing_and_is_no_error(tiny_folder: Path, tmp_path: Path) -> None:
    """A batch in which nothing learned takes part has no gradient at all."""
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    file = make_llava_json(tmp_path, [{"conversations": talk}])
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    options = {"text_length": 0, "projector": False}
    bundle = train_m2pt(m2pt_job(tiny_folder, tmp_path, tmp_path / "out", options, data=data))
    generator = torch.Generator().manual_seed(42)
    begun = xavier_prompts(VISION_LAYERS, 2, VISION_HIDDEN, generator).bfloat16()
    assert torch.equal(bundle.tensors["vision.prompts"], begun)


def test_pictures_and_text_alone_mix(tiny_folder: Path, tiny: LlavaBackbone, tmp_path: Path) -> None:
    """The batch's loss is that of its examples taken one by one, weighted by their tokens."""
    random_picture(1).save(tmp_path / "a.png")
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    seen = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a heron"}]
    file = make_llava_json(tmp_path, [{"conversations": talk}, {"image": "a.png", "conversations": seen}])
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    losses = {}
    for name, limit, batch in (("both", 2, 2), ("text", 1, 1)):
        config = m2pt_job(
            tiny_folder, tmp_path, tmp_path / name, data={**data, "limit": limit}, batch=batch, steps=1
        )
        train_m2pt(config)
        losses[name] = losses_of(config.out)[0]
    prompts = fresh()
    deep = DeepPrompts(text=prompts["text.prompts"], vision=prompts["vision.prompts"])
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(1)]), deep)
    assert len(features.rows) == PATCHES + 2
    with_picture, tokens = one_loss(tiny, "what?", "a heron", features, deep)
    alone, fewer = one_loss(tiny, "hello", "hi", None, deep)
    assert losses["text"] == pytest.approx(alone, rel=1e-5)
    expected = (with_picture * tokens + alone * fewer) / (tokens + fewer)
    assert losses["both"] == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def one_loss(tiny: LlavaBackbone, question: str, answer: str, features: Any, deep: Any) -> tuple[float, int]:
    encoded = tiny.chat.encode(tiny.chat.render(question, picture=features is not None), answer)
    batch = tiny.collate([encoded], features)
    return tiny.answer_loss(batch, features, deep).item(), len(encoded.answer)


def test_a_long_answer_is_cut_to_the_length(tiny_folder: Path, tmp_path: Path) -> None:
    """Both answers begin alike: cut there, they teach the same."""
    losses = []
    for number, tail in enumerate(("", " and so on" * 50)):
        talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "well, thank you" * 9 + tail}]
        folder = tmp_path / str(number)
        folder.mkdir()
        file = make_llava_json(folder, [{"conversations": talk}])
        data = {"kind": "llava_json", "file": str(file), "images": str(folder)}
        config = m2pt_job(tiny_folder, folder, folder / "out", {"max_length": 30}, data=data)
        train_m2pt(config)
        losses.append(losses_of(config.out))
    assert losses[0] == losses[1]


def test_the_projector_has_a_learning_rate_of_its_own(
    tiny_folder: Path, tiny: LlavaBackbone, picture_folder: Path, tmp_path: Path
) -> None:
    """Adam's first step moves each value by about the rate."""
    config = m2pt_job(
        tiny_folder, picture_folder, tmp_path / "out", {"projector_lr": 0.25}, steps=1, warmup=0.0, lr=0.125
    )
    train_m2pt(config)
    tensors = torch.load(config.out / "checkpoint.pt", weights_only=True)["tensors"]
    moved = (tensors["text.prompts"] - fresh()["text.prompts"]).abs().max().item()
    assert moved == pytest.approx(0.125, rel=0.01)
    own = tiny.projector.state_dict()["linear_2.weight"]
    assert (tensors["projector.linear_2.weight"] - own).abs().max().item() == pytest.approx(0.25, rel=0.01)
