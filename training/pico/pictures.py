"""Batches of fresh pictures for the recipe: endless scenes of known glyphs, drawn by a worker process."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from training.pico.glyphs import load_split
from training.pico.scenes import CANVAS_PIXELS, draw_scene, random_scene

__all__ = ["PictureBatch", "picture_batches"]

_MATTED_SHARE = 0.15
_MATTED_INNER = 164


@dataclass(frozen=True)
class PictureBatch:
    """`pixels` (B, 3, 224, 224) uint8 and, per picture, the indices of its glyphs among the known ones."""

    pixels: Tensor
    glyphs: list[list[int]]


class _Scenes(IterableDataset[tuple[np.ndarray, list[int]]]):
    def __init__(self, *, seed: int, several_share: float) -> None:
        self.seed, self.several_share = seed, several_share

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[int]]]:
        known = load_split()["known"]
        rng = np.random.default_rng(self.seed)
        while True:
            count = int(rng.integers(2, 5)) if rng.random() < self.several_share else 1
            chosen = rng.choice(len(known), count, replace=False).tolist()
            picture = draw_scene(random_scene(rng, [known[i] for i in chosen]))
            if rng.random() < _MATTED_SHARE:
                picture = _matted(picture)
            yield np.asarray(picture), chosen


def _matted(picture: Image.Image) -> Image.Image:
    """The picture shrunk into a black mat: a learned frame's canvas must not be a new world to the tower."""
    mat = Image.new("RGB", (CANVAS_PIXELS, CANVAS_PIXELS))
    border = (CANVAS_PIXELS - _MATTED_INNER) // 2
    mat.paste(picture.resize((_MATTED_INNER, _MATTED_INNER), Image.Resampling.BICUBIC), (border, border))
    return mat


def picture_batches(*, batch: int, seed: int, several_share: float) -> Iterator[PictureBatch]:
    """Yields batches for ever; `seed` must be of the training split."""
    scenes = _Scenes(seed=seed, several_share=several_share)
    loader = DataLoader(scenes, batch_size=batch, num_workers=1, prefetch_factor=4, collate_fn=_collate)
    return iter(loader)


def _collate(rows: list[tuple[np.ndarray, list[int]]]) -> PictureBatch:
    pixels = torch.from_numpy(np.stack([row[0] for row in rows])).permute(0, 3, 1, 2).contiguous()
    return PictureBatch(pixels, [row[1] for row in rows])
