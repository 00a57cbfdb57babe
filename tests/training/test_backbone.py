"""The frozen LLaVA with prompts: against transformers, the engine's oracle, and the methods' identities."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from prompts.deep import xavier_rms
from prompts.errors import ConfigError
from prompts.manifest import VisionSpec
from tests.engine.oracle import Oracle
from tests.engine.tiny_llava import (
    HIDDEN,
    LAYERS,
    PATCHES,
    VISION_HIDDEN,
    VISION_LAYERS,
    make_tiny_llava,
)
from tests.engine.tiny_tasks import make_task
from tests.training.conftest import one_of, random_picture
from training.backbone import DeepPrompts, Features, LlavaBackbone
from training.chat import Encoded

QUESTION = "what digit is this?"


def prompts(*shape: int, seed: int = 3, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def batch_of(tiny: LlavaBackbone, answers: list[str], features: Features):
    encoded = [tiny.chat.encode(tiny.chat.render(QUESTION, picture=True), answer) for answer in answers]
    return tiny.collate(encoded, features)


def test_without_prompts_the_logits_are_transformers_own(tiny: LlavaBackbone) -> None:
    inputs = tiny.process([random_picture(0)])
    with torch.no_grad():
        features = tiny.image_features(inputs)
        batch = batch_of(tiny, ["seven"], features)
        hidden = tiny.hidden_states(tiny.embed(batch, features))
        own = tiny.model(input_ids=batch.ids, pixel_values=inputs.pixels).logits
    torch.testing.assert_close(tiny.model.lm_head(hidden), own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("layer", [-1, -2, [1, -2]])
def test_image_features_are_transformers_own(tmp_path: Path, tower: str, layer: int | list[int]) -> None:
    folder = make_tiny_llava(tmp_path, tower=tower, vision_feature_layer=layer)
    backbone = LlavaBackbone.load(folder, dtype="float32", device="cpu")
    inputs = backbone.process([random_picture(0), random_picture(1)])
    with torch.no_grad():
        own = torch.cat(backbone.model.get_image_features(inputs.pixels).pooler_output)
        torch.testing.assert_close(backbone.image_features(inputs).rows, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["released", "paper"])
@pytest.mark.parametrize(
    "parts",
    [
        {"text": 4},
        {"vision": 3},
        {"text": 4, "vision": 3, "projector": True},
        {"text": 4, "at": (0,), "vision": 3, "vision_at": (0, 2)},
        {"text": 4, "at": (1, 2), "vision": 3, "vision_at": (1,), "lm_head": True},
    ],
)
def test_the_first_token_is_the_oracles(
    tmp_path: Path, tiny_folder: Path, tiny: LlavaBackbone, mode: Any, parts: dict[str, Any]
) -> None:
    bundle = make_task(tmp_path, "t", tiny_folder, seed=5, mode=mode, **parts)
    deep = DeepPrompts.of_bundle(bundle, tiny.device)
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(0)]), deep)
        rendered = tiny.chat.render(QUESTION, picture=True)
        question = tiny.chat.encode(rendered, "x").prompt
        batch = tiny.collate([Encoded(question, ())], features)
        hidden = tiny.hidden_states(tiny.embed(batch, features), deep)
        ours = tiny.read_out(hidden[0, -1], deep).log_softmax(-1)
        oracle = Oracle(tiny_folder)
        left = rendered.removeprefix("<s>")  # the oracle's tokenizer puts it there itself
        theirs = oracle.answer(left, [random_picture(0)], bundle, tokens=1).logprobs
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_text_prompts_are_an_input_independent_prefix_of_keys_and_values(tiny: LlavaBackbone) -> None:
    """K_l, V_l of the prompt rows are W_k, W_v (norm_l(prompts[l])), with rotary positions 0..P_t-1."""
    from transformers import DynamicCache

    text = prompts(LAYERS, 4, HIDDEN)
    decoder = tiny.model.model.language_model
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(0)]))
        rows = tiny.embed(batch_of(tiny, ["seven"], features), features)
        cache = DynamicCache()
        hidden = tiny.hidden_states(rows, DeepPrompts(text=text), cache)
        prefix = DynamicCache()
        cos, sin = decoder.rotary_emb(text, torch.arange(4)[None])
        for index, layer in enumerate(decoder.layers):
            normed = layer.input_layernorm(text[index][None])
            heads = (1, 4, -1, layer.self_attn.head_dim)
            keys = layer.self_attn.k_proj(normed).view(heads).transpose(1, 2)
            values = layer.self_attn.v_proj(normed).view(heads).transpose(1, 2)
            keys = apply_rotary_pos_emb(keys, keys, cos, sin)[1]
            torch.testing.assert_close(cache.layers[index].keys[:, :, :4], keys)
            torch.testing.assert_close(cache.layers[index].values[:, :, :4], values)
            prefix.update(keys, values, index)
        from_prefix = decoder(inputs_embeds=rows, past_key_values=prefix).last_hidden_state
    torch.testing.assert_close(hidden, from_prefix, atol=1e-5, rtol=1e-5)


def test_rows_that_go_on_are_input_independent_too(tiny: LlavaBackbone) -> None:
    """Prompts at layer 0 alone: what becomes of them at the others depends on no token that follows."""
    from transformers import DynamicCache

    deep = DeepPrompts(text=prompts(1, 4, HIDDEN), text_at=(0,))
    caches = []
    with torch.no_grad():
        for seed in (0, 1):
            rows = torch.randn(1, 5, HIDDEN, generator=torch.Generator().manual_seed(seed))
            caches.append(DynamicCache())
            tiny.hidden_states(rows, deep, caches[-1])
    for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
        torch.testing.assert_close(one.keys[:, :, :4], other.keys[:, :, :4])
        torch.testing.assert_close(one.values[:, :, :4], other.values[:, :, :4])
        assert (one.keys[:, :, 4:] - other.keys[:, :, 4:]).abs().max() > 0.1


def test_prompts_of_a_text_act_as_the_text_itself(tiny: LlavaBackbone) -> None:
    ids = tiny.chat.plain_ids("a heron by the water")
    deep = DeepPrompts(text=tiny.text_prompts_of("a heron by the water", len(ids)))
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(0)]))
        rows = tiny.embed(batch_of(tiny, ["seven"], features), features)
        text = tiny.model.model.language_model.embed_tokens(torch.tensor([ids]))
        written = tiny.hidden_states(torch.cat([text, rows], dim=1))[:, len(ids) :]
        alone = tiny.hidden_states(rows)
        torch.testing.assert_close(tiny.hidden_states(rows, deep), written, atol=1e-3, rtol=1e-3)
    assert (alone - written).abs().max() > 0.1


def test_rows_of_a_text_are_as_long_as_xavier_rows(tiny: LlavaBackbone) -> None:
    length = len(tiny.chat.plain_ids("a heron by the water"))
    rms = tiny.text_prompts_of("a heron by the water", length).square().mean(-1).sqrt()
    assert rms.shape == (LAYERS, length)
    torch.testing.assert_close(rms, torch.full_like(rms, xavier_rms(length, HIDDEN)))


def test_a_text_must_fit_the_prompts(tiny: LlavaBackbone) -> None:
    length = len(tiny.chat.plain_ids("a heron"))
    message = (
        rf"m2pt\.text_length: expected {length}, the tokens of init_text, came 50; set text_length: {length}"
    )
    with pytest.raises(ConfigError, match=message):
        tiny.text_prompts_of("a heron", 50)
    with pytest.raises(ConfigError, match=r"m2pt\.init_text: expected a text without the image token"):
        tiny.text_prompts_of("<image>", len(tiny.chat.plain_ids("<image>")))


@pytest.mark.parametrize(("mode", "rows"), [("released", PATCHES + 3), ("paper", PATCHES)])
def test_rows_per_picture(tiny: LlavaBackbone, mode, rows: int) -> None:
    spec = VisionSpec(layers=VISION_LAYERS, length=3, hidden=VISION_HIDDEN, mode=mode)
    deep = DeepPrompts(vision=prompts(VISION_LAYERS, 3, VISION_HIDDEN), vision_mode=mode)
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(0)]), deep)
    assert features.rows.shape == (rows, HIDDEN)
    assert features.pictures == ((tiny.chat.image_token_id,) * rows,)
    assert tiny.image_rows(spec) == rows
    assert tiny.image_rows() == PATCHES


def test_released_mode_hands_over_constants_of_the_last_prompt_but_its_first_row(tiny: LlavaBackbone) -> None:
    """Layer -2 is read after the overwrite: the rows are projector(prompts[-1][1:]), whatever the picture."""
    vision = prompts(VISION_LAYERS, 3, VISION_HIDDEN)
    deep = DeepPrompts(vision=vision)
    features = tiny.image_features(tiny.process([random_picture(0), random_picture(1)]), deep)
    expected = tiny.projector(vision[-1][1:])
    for one in features.rows.chunk(2):
        torch.testing.assert_close(one[:2], expected)
    (gradient,) = torch.autograd.grad(features.rows.square().sum(), vision)
    assert gradient[-1, 0].abs().max() == 0
    assert (gradient[:-1].abs().amax((1, 2)) > 0).all()


def test_gradients_reach_prompts_projector_and_pixels_and_no_weight(tiny: LlavaBackbone) -> None:
    text, vision = prompts(LAYERS, 2, HIDDEN), prompts(VISION_LAYERS, 2, VISION_HIDDEN)
    projector = {name: p.detach().clone().requires_grad_() for name, p in tiny.projector.named_parameters()}
    canvas = torch.rand(1, 3, 64, 64, requires_grad=True)
    deep = DeepPrompts(text=text, vision=vision, projector=projector)
    features = tiny.image_features(tiny.process_canvas(canvas), deep)
    loss = tiny.answer_loss(batch_of(tiny, ["seven"], features), features, deep)
    loss.backward()
    for learned in (text, vision, canvas, *projector.values()):
        assert learned.grad is not None
        assert learned.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in tiny.model.parameters())


def test_padding_changes_no_loss(tiny: LlavaBackbone) -> None:
    """Right padding and causal attention: a batch's loss is the mean over its tokens taken one by one."""
    answers = ["seven", "a heron by the water"]
    text = DeepPrompts(text=prompts(LAYERS, 3, HIDDEN))
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(0), random_picture(1)]))
        both = tiny.answer_loss(batch_of(tiny, answers, features), features, text)
        alone, tokens = [], []
        for index, answer in enumerate(answers):
            own = one_of(features, index)
            one = batch_of(tiny, [answer], own)
            tokens.append(int(one.answer.sum()))
            alone.append(tiny.answer_loss(one, own, text) * tokens[-1])
    torch.testing.assert_close(both, sum(alone) / sum(tokens), atol=1e-5, rtol=1e-5)


def test_the_hooks_are_gone_after_a_pass_and_after_a_failure(tiny: LlavaBackbone) -> None:
    layers = tiny.model.model.language_model.layers
    rows, wrong = torch.zeros(1, 5, HIDDEN), torch.zeros(LAYERS - 1, 2, HIDDEN)
    tiny.hidden_states(rows, DeepPrompts(text=torch.zeros(LAYERS, 2, HIDDEN)))
    with pytest.raises(IndexError):
        tiny.hidden_states(rows, DeepPrompts(text=wrong))
    assert [len(layer._forward_pre_hooks) for layer in layers] == [0] * LAYERS
