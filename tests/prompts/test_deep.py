"""Deep prompts in numbers: the paper's parameter counts, the initial bound, tokens per picture."""

import math

import pytest
import torch

from prompts.deep import choose_layers, count_parameters, image_tokens, xavier_prompts
from prompts.manifest import VisionSpec

# METHODS, M²PT "parameters": LLaVA of CLIP ViT-L/14 (24 x 1024), Vicuna-7B (32 x 4096), one linear projector.
VICUNA_PARAMETERS = 6_738_415_616
LINEAR_PROJECTOR = 1024 * 4096 + 4096


@pytest.mark.parametrize(
    ("text_length", "vision_length", "prompts", "total"),
    [(10, 10, 1_556_480, 5_754_880), (10, 20, 1_802_240, 6_000_640)],
)
def test_the_papers_parameter_counts(text_length: int, vision_length: int, prompts: int, total: int) -> None:
    sizes = count_parameters(
        text_layers=32,
        text_length=text_length,
        text_hidden=4096,
        vision_layers=24,
        vision_length=vision_length,
        vision_hidden=1024,
        projector_parameters=LINEAR_PROJECTOR,
    )
    assert (sizes.prompts, sizes.total) == (prompts, total)


def test_the_papers_share_of_the_base_model() -> None:
    assert round(100 * 6_000_640 / VICUNA_PARAMETERS, 3) == 0.089


def test_parts_left_out_count_nothing() -> None:
    assert count_parameters(text_layers=2, text_length=3, text_hidden=4).total == 24


def test_the_output_layer_of_the_released_script() -> None:
    """METHODS: lm_head is 131 million weights, 262 MB in two bytes each, outside the claimed 0.09 %."""
    sizes = count_parameters(lm_head_parameters=32_000 * 4096)
    assert (sizes.lm_head, sizes.prompts, sizes.total) == (131_072_000, 0, 131_072_000)
    assert round(2 * sizes.lm_head / 1e6) == 262


@pytest.mark.parametrize(
    ("which", "chosen"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("first", (0,)),
        ("odd", (0, 2, 4)),
        ("top_half", (2, 3, 4)),
        ((1, 4), (1, 4)),
    ],
)
def test_layers_are_chosen_by_word_or_number(which: str | tuple[int, ...], chosen: tuple[int, ...]) -> None:
    assert choose_layers(which, 5) == chosen


def test_a_layer_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="expected layers 0 to 4, came 5; name one of those"):
        choose_layers((0, 5), 5)


def test_xavier_is_torchs_on_one_layer() -> None:
    """torch's xavier_uniform_ on (1, P, d) has fan-in P·d and fan-out d."""
    torch.manual_seed(1)
    reference = torch.nn.init.xavier_uniform_(torch.empty(1, 10, 64))
    torch.manual_seed(1)
    assert torch.allclose(xavier_prompts(1, 10, 64), reference, atol=1e-7)


def test_xavier_fills_its_bound_and_follows_its_generator() -> None:
    bound = math.sqrt(6 / (64 * 11))
    drawn = xavier_prompts(30, 10, 64, torch.Generator().manual_seed(2))
    assert drawn.shape == (30, 10, 64)
    assert 0.99 * bound < float(drawn.abs().max()) <= bound
    assert abs(float(drawn.mean())) < 0.01 * bound
    assert torch.equal(drawn, xavier_prompts(30, 10, 64, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize(("mode", "tokens"), [("released", 276), ("paper", 256), (None, 256)])
def test_tokens_per_picture(mode: str | None, tokens: int) -> None:
    """METHODS: 256 patches and P_v = 20 give 276 tokens as released, 256 as in the paper."""
    fields = {"layers": 24, "length": 20, "hidden": 1024, "mode": mode}
    vision = None if mode is None else VisionSpec.model_validate(fields)
    assert image_tokens(256, vision) == tokens
