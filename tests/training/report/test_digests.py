"""Jobs are kept by what they are made from."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.jobs import FRAME, tvp_job
from training.config import TvpConfig
from training.data import ImageFolderData, MixData, PicoData
from training.report.digests import data_digest, digest_of, frame_digest


def job(model: Path, pictures: Path, clip: Path, out: Path, **changes: Any) -> TvpConfig:
    tvp = {"frame": FRAME, "lambda_fca": 0.1, "lambda_tse": 0.1, "clip": str(clip), **changes.pop("tvp", {})}
    return tvp_job(model, pictures, out, tvp, **changes)


def test_where_a_job_lies_does_not_matter_and_what_it_does_does(
    tiny_folder: Path, tiny_clip: Path, picture_folder: Path, tmp_path: Path
) -> None:
    given = tiny_folder, picture_folder, tiny_clip
    first = frame_digest(job(*given, tmp_path / "a"))
    assert frame_digest(job(*given, tmp_path / "b", checkpoint_every=7, log_every=3)) == first
    others = [
        job(*given, tmp_path / "a", seed=43),
        job(*given, tmp_path / "a", steps=4),
        job(*given, tmp_path / "a", tvp={"lambda_fca": 0.2}),
        job(*given, tmp_path / "a", tvp={"also": [str(tiny_folder)]}),
        job(*given, tmp_path / "a", usage={"template": "really, {text}"}),
        job(*given, tmp_path / "a", tvp={"lambda_tse": 0}),
    ]
    digests = {first, *map(frame_digest, others)}
    assert len(digests) == 1 + len(others)


def test_a_copy_of_a_model_is_the_same_model(
    tiny_folder: Path, tiny_clip: Path, picture_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.symlink_to(tiny_folder)
    jobs = [job(model, picture_folder, tiny_clip, tmp_path / "a") for model in (tiny_folder, copy)]
    assert frame_digest(jobs[0]) == frame_digest(jobs[1])


@pytest.mark.parametrize("change", ["question", "limit", "picture"])
def test_other_data_is_another_job(change: str, picture_folder: Path, tmp_path: Path) -> None:
    entry = ImageFolderData(kind="image_folder", root=picture_folder)
    before = data_digest(entry)
    assert data_digest(entry) == before
    if change == "picture":
        root = tmp_path / "pictures"
        files = sorted(picture_folder.rglob("*.png"))
        for file in files:
            (root / file.parent.name).mkdir(parents=True, exist_ok=True)
            (root / file.parent.name / file.name).write_bytes(files[0].read_bytes())
        changed = entry.model_copy(update={"root": root})
    else:
        changed = entry.model_copy(update={"question": "Why?"} if change == "question" else {"limit": 5})
    assert data_digest(changed) != before


def test_splits_and_seeds_of_drawn_pictures_differ() -> None:
    entries = [
        PicoData(kind="pico", task="kind", split=split, size=9, seed=seed)
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    assert len({data_digest(entry) for entry in entries}) == 4


def test_order_of_keys_does_not_matter() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})


def test_a_mix_is_its_parts_and_their_weights(picture_folder: Path) -> None:
    def mix(weight: float, limit: int) -> MixData:
        folder = {"kind": "image_folder", "root": picture_folder, "limit": limit}
        drawn = {"kind": "pico", "task": "count", "size": 4}
        parts = [{"data": folder, "weight": weight}, {"data": drawn, "weight": 1}]
        return MixData.model_validate({"kind": "mix", "parts": parts})

    assert data_digest(mix(1, 4)) == data_digest(mix(1, 4))
    assert len({data_digest(one) for one in (mix(1, 4), mix(2, 4), mix(1, 5))}) == 3
