"""Any vision-language model of transformers: asked as it asks itself, and a gradient through all of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prompts.errors import ConfigError, UnsupportedError
from prompts.frame import apply_frame, fit_picture, frame_mask
from prompts.manifest import FrameSpec, Usage
from tests.engine.tiny_families import (
    make_tiny_blip2,
    make_tiny_idefics3,
    make_tiny_onevision,
    make_tiny_smolvlm,
)
from tests.engine.tiny_llava import make_tiny_llava
from tests.engine.tiny_qwen_vl import make_tiny_qwen_vl
from tests.training.conftest import random_picture
from tests.training.jobs import FRAME
from training.backbone import Backbone, DeepPrompts, load_backbone
from training.backbone.pictures import of_canvas
from training.chat import Encoded
from training.data import Example
from training.decoding import generate, score_choices


def make_with_mark(make: Callable[[Path], Path], mark: str) -> Callable[[Path], Path]:
    """The tiny checkpoint with `mark` in a picture's place, as its family's chat template has it."""

    def made(folder: Path) -> Path:
        make(folder)
        file = folder / "chat_template.jinja"
        template = file.read_text(encoding="utf-8")
        assert "<image>" in template
        file.write_text(template.replace("<image>\n", mark).replace("<image>", mark), encoding="utf-8")
        return folder

    return made


def make_qwen(family: Any) -> Callable[[Path], Path]:
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return make_with_mark(lambda folder: make_tiny_qwen_vl(folder, family), mark)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llava": lambda folder: make_tiny_llava(folder),
    "llava with siglip": lambda folder: make_tiny_llava(folder, tower="siglip"),
    "onevision": make_tiny_onevision,
    "idefics3": make_tiny_idefics3,
    "smolvlm": make_tiny_smolvlm,
    "blip2": make_with_mark(make_tiny_blip2, ""),
    "qwen2-vl": make_qwen("qwen2-vl"),
    "qwen2.5-vl": make_qwen("qwen2.5-vl"),
    "qwen3-vl": make_qwen("qwen3-vl"),
}
SPEC = FrameSpec(**FRAME)
MASK = frame_mask(SPEC)
EXAMPLES = [
    Example(random_picture(0), "what digit is this?", "seven"),
    Example(random_picture(1), "what is it?", "a heron by the water"),
]
"""Pictures of one size, requests and answers of different lengths."""


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("family"))
    return load_backbone(folder, dtype="float32", device="cpu")


def own_inputs(backbone: Backbone, example: Example) -> dict[str, Tensor]:
    """What the checkpoint's own processor makes of a request, all at once."""
    rendered = backbone.chat.render(example.question, picture=True)
    assert example.picture is not None
    return dict(
        backbone.processor(
            images=[example.picture], text=[rendered], add_special_tokens=False, return_tensors="pt"
        )
    )


def encode(backbone: Backbone, answers: list[str]) -> list[Encoded]:
    return [
        backbone.encode_example(Example(e.picture, e.question, answer), Usage())
        for e, answer in zip(EXAMPLES, answers, strict=True)
    ]


def test_a_batch_says_what_transformers_says_one_by_one(backbone: Backbone) -> None:
    """Token ids, image features and logits are those of the model with its own processor."""
    with torch.no_grad():
        features = backbone.image_features(backbone.process([e.picture for e in EXAMPLES]))
        batch = backbone.collate([Encoded(e.prompt, ()) for e in encode(backbone, ["", ""])], features)
        last = torch.zeros_like(batch.image)
        last[torch.arange(2), batch.lengths - 1] = True
        logits = backbone.logits(batch, features, last)
        for row, example in enumerate(EXAMPLES):
            inputs = own_inputs(backbone, example)
            assert inputs["input_ids"][0].tolist() == batch.ids[row, : batch.lengths[row]].tolist()
            own = backbone.model(**inputs).logits[0, -1]
            torch.testing.assert_close(logits[row], own, atol=1e-4, rtol=1e-4)


def test_it_writes_and_scores_what_transformers_does(backbone: Backbone) -> None:
    """The question read once and continued from its cache, against whole passes."""
    prompts = [encoded.prompt for encoded in encode(backbone, ["", ""])]
    choices = [(5, 40, 7), (9,), (30, 31)]
    with torch.no_grad():
        features = backbone.image_features(backbone.process([e.picture for e in EXAMPLES]))
        written = generate(backbone, prompts, features=features, max_new_tokens=5)
        scores = score_choices(backbone, prompts, [choices, choices], features=features)
        for row, example in enumerate(EXAMPLES):
            inputs = own_inputs(backbone, example)
            start = inputs["input_ids"].shape[1]
            said = backbone.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, start:].tolist()
            stop = [place for place, token in enumerate(said) if token in backbone.stop_ids]
            assert written[row] == backbone.chat.decode(said[: stop[0]] if stop else said)
            for number, choice in enumerate(choices):
                whole = with_answer(inputs, choice)
                log_probs = backbone.model(**whole).logits[0, start - 1 : -1].log_softmax(-1)
                mean = log_probs.gather(1, torch.tensor(choice)[:, None]).mean()
                torch.testing.assert_close(scores[row][number], mean, atol=1e-4, rtol=1e-4)


def with_answer(inputs: dict[str, Tensor], answer: tuple[int, ...]) -> dict[str, Tensor]:
    """The request with an answer's tokens behind it."""
    ids = torch.tensor([answer])
    more = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": 0 * ids}
    return {
        name: torch.cat([tensor, more[name]], dim=1) if name in more else tensor
        for name, tensor in inputs.items()
    }


def test_a_framed_picture_in_eight_bits_is_processed_alike(backbone: Backbone) -> None:
    """Float pictures take the processor's own steps; only its rounding to 8 bits in between is left out."""
    slope = torch.linspace(80, 170, 64)
    levels = torch.stack([slope.expand(64, 64), slope[:, None].expand(64, 64), slope.flip(0).expand(64, 64)])
    levels = levels.round().to(torch.uint8)
    processed = backbone.processor.image_processor([levels], return_tensors="pt")["pixel_values"]
    ours = backbone.process_canvas(levels[None].float() / 255).pixels
    assert ours.shape == processed.shape
    assert (ours - processed).abs().max() < 1.1 / 255 / 0.22  # a level, in units of the normalised range


def test_the_gradient_is_that_of_finite_differences(backbone: Backbone) -> None:
    """Through frame, preprocessing, tower, projector and language model, in float64."""
    double = type(backbone)(backbone.model.double(), backbone.processor)
    try:
        canvas = torch.stack([fit_picture(e.picture, SPEC) for e in EXAMPLES if e.picture]).double()
        encoded = encode(double, [e.answer for e in EXAMPLES])

        def loss(delta: Tensor) -> Tensor:
            features = double.image_features(double.process_canvas(apply_frame(canvas, delta)))
            return double.answer_loss(double.collate(encoded, features), features)

        delta = (0.5 * noise(2) * MASK).double().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(delta), delta)
        for direction in (gradient, gradient.sign() * noise(3).abs()):
            step = 0.01 * direction / direction.norm()
            with torch.no_grad():
                slope = (loss(delta + step) - loss(delta - step)) / 2
            assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=0.01)
    finally:
        backbone.model.float()


def noise(seed: int) -> Tensor:
    return torch.randn(3, *SPEC.canvas, generator=torch.Generator().manual_seed(seed))


def test_a_batchs_loss_is_the_mean_over_its_tokens(backbone: Backbone) -> None:
    encoded = encode(backbone, [e.answer for e in EXAMPLES])
    with torch.no_grad():
        features = backbone.image_features(backbone.process([e.picture for e in EXAMPLES]))
        both = backbone.answer_loss(backbone.collate(encoded, features), features)
        sums = []
        for one, example in zip(encoded, EXAMPLES, strict=True):
            own = backbone.image_features(backbone.process([example.picture]))
            sums.append(backbone.answer_loss(backbone.collate([one], own), own) * len(one.answer))
    tokens = sum(len(one.answer) for one in encoded)
    torch.testing.assert_close(both, sum(sums) / tokens, atol=1e-4, rtol=1e-4)


def test_prompts_inside_the_model_are_for_llava(backbone: Backbone) -> None:
    if type(backbone) is not Backbone:
        pytest.skip("LLaVA's layout takes them")
    features = backbone.image_features(backbone.process([EXAMPLES[0].picture]))
    batch = backbone.collate(encode(backbone, ["", ""])[:1], features)
    deep = DeepPrompts(text=torch.zeros(2, 3, 64))
    with pytest.raises(UnsupportedError, match="model: expected LLaVA's layout"):
        backbone.logits(batch, features, batch.image, deep=deep)


def test_a_processor_on_arrays_is_refused() -> None:
    from transformers import CLIPImageProcessorPil

    with pytest.raises(ConfigError, match=r"image processor: expected one that works on tensors"):
        of_canvas(CLIPImageProcessorPil(), torch.zeros(1, 3, 8, 8))
