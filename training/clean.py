"""What a model sees without the frame: FCA's other side, computed once for each view of an example.

The released TVP code computes it anew in every step. It depends on the picture and its crop alone, so every
epoch after the first finds it here, where crops are not random.
"""

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
    """Rows (N, d) of each view in a model's own dtype, in main memory.

    Kept only where that pays: a run sees its views more than once, and all of them fit into 1 GiB (of fewer
    the ones seen longest ago would always just be gone).

    Args:
        views: how many different views the run will see; None: too many to come again.
    """

    def __init__(self, backbone: Backbone, views: int | None, *, bytes_kept: int = _BYTES_KEPT) -> None:
        self._backbone, self._views, self._bytes_kept = backbone, views, bytes_kept
        self._known: dict[View, Tensor] = {}

    @torch.no_grad()
    def rows(self, views: Sequence[View], canvas: Tensor) -> Tensor:
        """The rows of all views in order, (rows of the batch, d), on the model's device.

        Args:
            canvas: (B, 3, H, W), the views' pictures on their canvas, without a frame.
        """
        new = [number for number, view in enumerate(views) if view not in self._known]
        fresh = self._computed(views, canvas, new) if new else {}
        if new and self._all_fit(fresh[views[new[0]]]):
            self._known |= {view: rows.cpu() for view, rows in fresh.items()}
        rows = [fresh[view] if view in fresh else self._known[view] for view in views]
        return torch.cat([one.to(self._backbone.device) for one in rows])

    def _computed(self, views: Sequence[View], canvas: Tensor, new: Sequence[int]) -> dict[View, Tensor]:
        features = self._backbone.image_features(self._backbone.process_canvas(canvas[new]))
        chunks = features.rows.chunk(len(new))
        return {views[number]: rows.clone() for number, rows in zip(new, chunks, strict=True)}

    def _all_fit(self, rows: Tensor) -> bool:
        return self._views is not None and self._views * rows.nbytes <= self._bytes_kept
