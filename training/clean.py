"""What a model sees without the frame: FCA's other side, computed once for each view of an example.

The released TVP code computes it anew in every step. It depends on the picture and its crop alone, so an
epoch after the first (without random crops and mirrors, or with the same by chance) finds it here.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.backbone import Backbone

__all__ = ["CleanFeatures", "View"]

_BYTES_KEPT = 1 << 30


@dataclass(frozen=True)
class View:
    """An example by its place in the source, and what of its picture is shown (see `fit_picture`)."""

    place: int
    crop: Literal["centre"] | tuple[int, int] = "centre"
    flip: bool = False


class CleanFeatures:
    """Rows (N, d) of each view in a model's own dtype; the longest unused go when 1 GiB is full."""

    def __init__(self, backbone: Backbone, *, bytes_kept: int = _BYTES_KEPT) -> None:
        self._backbone = backbone
        self._bytes_kept = bytes_kept
        self._bytes = 0
        self._known: OrderedDict[View, Tensor] = OrderedDict()

    @torch.no_grad()
    def rows(self, views: Sequence[View], canvas: Tensor) -> Tensor:
        """The rows of all views in order, (rows of the batch, d).

        Args:
            canvas: (B, 3, H, W), the views' pictures on their canvas, without a frame.
        """
        new = [number for number, view in enumerate(views) if view not in self._known]
        if new:
            features = self._backbone.image_features(self._backbone.process_canvas(canvas[new]))
            for number, rows in zip(new, features.rows.chunk(len(new)), strict=True):
                self._keep(views[number], rows.clone())
        found = []
        for view in views:
            self._known.move_to_end(view)
            found.append(self._known[view])
        self._forget()
        return torch.cat(found)

    def _keep(self, view: View, rows: Tensor) -> None:
        if view not in self._known:
            self._bytes += rows.nbytes
        self._known[view] = rows

    def _forget(self) -> None:
        while self._bytes > self._bytes_kept:
            _, rows = self._known.popitem(last=False)
            self._bytes -= rows.nbytes
