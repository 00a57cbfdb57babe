"""FCA and TSE against what the paper's formulas say, computed by hand and by transformers' own CLIP."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

from prompts.errors import ConfigError
from training.losses import CAPTION, Judge, feature_consistency


def test_feature_consistency_by_hand() -> None:
    """Rows differ by (3, 4), (0, 0), (6, 8), (0, 0): lengths 5, 0, 10, 0, mean 3.75. Not squared."""
    clean = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[-1.0, 0.0], [5.0, 5.0]]])
    framed = clean + torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[6.0, 8.0], [0.0, 0.0]]])
    assert feature_consistency(framed, clean).item() == pytest.approx(3.75)


def test_feature_consistency_of_equal_features_has_no_nan_in_its_gradient() -> None:
    """The frame is zero at the first step, where the length has no derivative."""
    framed = torch.ones(1, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(feature_consistency(framed, torch.ones(1, 2, 3)), framed)
    assert gradient.abs().max() == 0


def test_task_semantics_are_the_matching_scores_of_transformers_own_clip(tiny_clip: Path) -> None:
    """Scores of CLIPModel's forward are scaled by exp(5); the clamp is at 4.6052, about 100."""
    answers = ["heron", "seven", "heron"]
    framed = 3 * torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(2)) - 1
    clip = CLIPModel.from_pretrained(tiny_clip)
    tokenizer = AutoTokenizer.from_pretrained(tiny_clip)
    pixels = AutoImageProcessor.from_pretrained(tiny_clip)(
        list(framed), do_rescale=False, return_tensors="pt"
    )["pixel_values"]
    expected = []
    with torch.no_grad():
        for index, answer in enumerate(answers):
            text = tokenizer(CAPTION.format(answer=answer), return_tensors="pt")
            output = clip(
                input_ids=text["input_ids"],
                attention_mask=text["attention_mask"],
                pixel_values=pixels[index : index + 1],
            )
            expected.append(output.logits_per_image[0, 0] / math.exp(5) * math.exp(4.6052))
    judge = Judge(tiny_clip, torch.device("cpu"))
    found = judge.semantics(framed, answers)
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-3, rtol=1e-4)
    assert CAPTION.format(answer="heron") == "this is a photo of a heron"


def test_task_semantics_reach_the_pixels(tiny_clip: Path) -> None:
    framed = torch.rand(1, 3, 40, 40, requires_grad=True)
    judge = Judge(tiny_clip, torch.device("cpu"))
    (gradient,) = torch.autograd.grad(judge.semantics(framed, ["seven"]), framed)
    assert gradient.abs().max() > 0


def test_a_checkpoint_that_is_no_clip_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tvp\.clip: expected a .* of type clip or siglip or siglip2, came type llava"
    ):
        Judge(tiny_folder, torch.device("cpu"))


def test_task_semantics_are_the_matching_scores_of_transformers_own_siglip(
    tiny_siglip: Path,
) -> None:
    """SigLIP's scores have a bias too, which no frame can change: it is left out."""
    answers = ["heron", "seven"]
    framed = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    siglip = AutoModel.from_pretrained(tiny_siglip)
    tokenizer = AutoTokenizer.from_pretrained(tiny_siglip)
    process = AutoImageProcessor.from_pretrained(tiny_siglip)
    texts = [CAPTION.format(answer=answer) for answer in answers]
    ids = tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = siglip(
            input_ids=ids,
            pixel_values=process(list(framed), do_rescale=False, return_tensors="pt")["pixel_values"],
        )
        expected = (output.logits_per_image - siglip.logit_bias).diagonal().mean()
    found = Judge(tiny_siglip, torch.device("cpu")).semantics(framed, answers)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
