"""Where an answer looks from: the model's own attention weights, each in its part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prompts.manifest import Usage
from tests.engine.tiny_llava import IMAGE_SIZE, LAYERS, PATCH_SIZE
from tests.training.conftest import random_picture
from tests.training.jobs import QUESTION, m2pt_job
from training.backbone import DeepPrompts, LlavaBackbone
from training.data import Example
from training.m2pt import train_m2pt
from training.report.m2pt.attention import look_at

SIDE = IMAGE_SIZE // PATCH_SIZE
EXAMPLE = Example(random_picture(3, (IMAGE_SIZE, IMAGE_SIZE)), QUESTION, "heron")


@pytest.mark.parametrize(("mode", "kept"), [("released", 2), ("paper", 0)])
def test_every_row_is_in_its_part(
    mode: str, kept: int, tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    job = m2pt_job(tiny_folder, picture_folder, tmp_path, {"mode": mode}, canary=0, steps=1)
    bundle = train_m2pt(job)
    look = look_at(tiny, bundle, EXAMPLE, layers=2)
    tokens = tiny.chat.plain_ids(tiny.chat.render(QUESTION, picture=True))
    assert look.layers == (LAYERS - 2, LAYERS - 1)
    assert look.text.shape == (2, 3)
    assert look.vision.shape == (2, kept)
    assert look.patches.shape == (2, SIDE, SIDE)
    assert look.question.shape == (2, len(look.tokens)) == (2, len(tokens) - 1)
    assert "".join(look.tokens).count("digit") == QUESTION.count("digit")
    np.testing.assert_allclose(look.shares.sum(1), 1, atol=1e-5)

    # the same weights, asked of transformers over the same rows
    deep = DeepPrompts.of_bundle(bundle, tiny.device)
    seen: list[Any] = []
    features = tiny.image_features(tiny.process([EXAMPLE.picture]), deep)
    batch = tiny.collate([tiny.encode_example(EXAMPLE, Usage())], features)
    rows = tiny.embed(batch, features)[:, : batch.lengths[0] - int(batch.answer.sum())]
    places = dict(enumerate(range(LAYERS)))
    with torch.inference_mode(), tiny._text_prompts(deep.text, places):
        whole = torch.cat([deep.text[0].to(rows.dtype)[None], rows], dim=1)
        seen = tiny.decoder(inputs_embeds=whole, output_attentions=True).attentions
    for place, number in enumerate(look.layers):
        last = seen[number][0, :, -1].mean(0).numpy()
        np.testing.assert_allclose(look.text[place], last[:3], atol=1e-5)
        image = np.concatenate([[False] * 3, batch.image[0][: rows.shape[1]].numpy()])
        np.testing.assert_allclose(
            np.concatenate([look.vision[place], look.patches[place].ravel()]), last[image], atol=1e-5
        )


def test_the_picture_is_shown_as_the_tower_has_it(
    tiny: LlavaBackbone, tiny_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """Of the tower's own size nothing is resized or cropped: the very levels come back."""
    bundle = train_m2pt(m2pt_job(tiny_folder, picture_folder, tmp_path, canary=0, steps=1))
    look = look_at(tiny, bundle, EXAMPLE, layers=1)
    difference = np.asarray(look.seen, int) - np.asarray(EXAMPLE.picture, int)
    assert np.abs(difference).max() <= 1
