"""Clean features: what the model sees without the frame, computed once for each view."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from prompts.frame import fit_picture
from prompts.manifest import FrameSpec
from tests.training.conftest import random_picture
from tests.training.jobs import FRAME, tvp_job
from training.backbone import LlavaBackbone
from training.clean import CleanFeatures, View
from training.tvp import views_that_repeat

SPEC = FrameSpec(**FRAME)


def canvas_of(views: list[View]) -> Tensor:
    return torch.stack(
        [fit_picture(random_picture(view.place), SPEC, crop=view.crop, flip=view.flip) for view in views]
    )


def own(tiny: LlavaBackbone, views: list[View]) -> Tensor:
    with torch.no_grad():
        return tiny.image_features(tiny.process_canvas(canvas_of(views))).rows


def test_a_view_is_computed_once_and_comes_back_in_the_order_asked(tiny: LlavaBackbone) -> None:
    clean = CleanFeatures(tiny, views=9)
    views = [View(0), View(1), View(0, flip=True), View(0, crop=(0, 0))]
    torch.testing.assert_close(clean.rows(views, canvas_of(views)), own(tiny, views))
    again = [views[3], View(2), views[0]]
    with patch.object(tiny, "process_canvas", wraps=tiny.process_canvas) as processed:
        found = clean.rows(again, canvas_of(again))
    assert [len(call.args[0]) for call in processed.call_args_list] == [1]
    torch.testing.assert_close(found, own(tiny, again), atol=1e-5, rtol=1e-5)
    assert not found.requires_grad


def test_a_picture_twice_in_a_batch_is_two_rows(tiny: LlavaBackbone) -> None:
    views = [View(0), View(0)]
    found = CleanFeatures(tiny, views=9).rows(views, canvas_of(views))
    torch.testing.assert_close(found, own(tiny, views))


@pytest.mark.parametrize(("views", "fits", "computed"), [(2, True, 0), (2, False, 1), (None, True, 1)])
def test_what_does_not_come_again_or_does_not_fit_is_not_kept(
    tiny: LlavaBackbone, views: int | None, fits: bool, computed: int
) -> None:
    both = 2 * own(tiny, [View(0)]).nbytes
    clean = CleanFeatures(tiny, views, bytes_kept=both if fits else both - 1)
    clean.rows([View(0)], canvas_of([View(0)]))
    with patch.object(tiny, "process_canvas", wraps=tiny.process_canvas) as processed:
        clean.rows([View(0)], canvas_of([View(0)]))
    assert processed.call_count == computed


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"steps": 50}, 18),
        ({"steps": 50, "tvp": {"flip": False}}, 9),
        ({"steps": 4, "tvp": {"flip": False}}, None),
        ({"steps": 5, "tvp": {"flip": False}}, 9),
        ({"steps": 50, "tvp": {"random_crop": True}}, None),
    ],
)
def test_views_repeat_after_an_epoch_without_random_crops(
    changes: dict[str, Any], views: int | None, tmp_path: Path
) -> None:
    """Nine examples, two at a time."""
    tvp = {"random_crop": False, **changes.pop("tvp", {})}
    assert views_that_repeat(tvp_job(tmp_path, tmp_path, tmp_path, tvp, **changes), 9) == views
