"""What the trainers' tests share: tiny random checkpoints and a few pictures, made once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from tests.engine.tiny_llava import make_tiny_llava
from training.backbone import Features, LlavaBackbone

CLIP_SIDE = 32
CLASSES = ("heron", "seven", "water_bird")
PICTURES_PER_CLASS = 3
TINY_ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
"""Of both halves of a judge."""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random LLaVA checkpoint."""
    return make_tiny_llava(tmp_path_factory.mktemp("tiny_llava"))


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> LlavaBackbone:
    """It, loaded in float32."""
    return LlavaBackbone.load(tiny_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def tiny_clip(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with the tiny LLaVA's tokenizer, and a logit scale (5) beyond the clamp."""
    config = CLIPConfig(
        text_config={**TINY_ENCODER, "vocab_size": 384, "eos_token_id": 2},
        vision_config={**TINY_ENCODER, "image_size": CLIP_SIDE, "patch_size": 8},
        projection_dim=16,
        logit_scale_init_value=5.0,
    )
    folder = tmp_path_factory.mktemp("tiny_clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    side = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    CLIPImageProcessor(size={"shortest_edge": CLIP_SIDE}, crop_size=side).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_siglip(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SigLIP with the tiny LLaVA's tokenizer."""
    config = SiglipConfig(
        text_config={**TINY_ENCODER, "vocab_size": 384, "projection_size": 32},
        vision_config={**TINY_ENCODER, "image_size": CLIP_SIDE, "patch_size": 8},
    )
    folder = tmp_path_factory.mktemp("tiny_siglip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SiglipModel(config)
        torch.nn.init.constant_(model.logit_scale, 2.0)
        torch.nn.init.constant_(model.logit_bias, -3.0)
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    SiglipImageProcessor(size={"height": CLIP_SIDE, "width": CLIP_SIDE}).save_pretrained(folder)
    return folder


def one_of(features: Features, number: int) -> Features:
    """The features of one picture among several of as many rows."""
    rows = features.rows.chunk(len(features.pictures))[number]
    return replace(features, rows=rows, pictures=features.pictures[number : number + 1])


def random_picture(seed: int, size: tuple[int, int] = (70, 60)) -> Image.Image:
    """Noise of (width, height) `size`."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(levels.numpy())


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder per class, three pictures of different sizes in each."""
    root = tmp_path_factory.mktemp("pictures")
    for place, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(PICTURES_PER_CLASS):
            size = (60 + 10 * number, 80 - 10 * number)
            random_picture(10 * place + number, size).save(root / name / f"{number}.png")
    return root
