"""A bundle that is good: saved whole or not at all, read back to the bit, known by its digest."""

import pickle
from pathlib import Path

import pytest
import torch

from prompts.bundle import compute_digest, load_bundle, save_bundle
from prompts.errors import BundleError
from prompts.manifest import FrameSpec, Manifest, Provenance, TextSpec, Usage
from tests.prompts.sample import BASE, SPEC, save_frame, save_whole, whole_manifest, whole_tensors

# Computed once by compute_digest on x86-64, format 1, of `pinned()`. It must never change: digests are kept
# outside (headers, logs, pins of operators).
PINNED_DIGEST = "66f8bb9840c1989749c5a431c1dc4d205b2c186b223936b7232b871031b13824"


def pinned() -> tuple[Manifest, dict[str, torch.Tensor]]:
    manifest = Manifest(
        name="pinned",
        version="1",
        base_model=BASE,
        text=TextSpec(layers=2, length=2, hidden=3),
        usage=Usage(choices=("ja", "nein", "ü")),
    )
    return manifest, {"text.prompts": torch.arange(12, dtype=torch.float32).reshape(2, 2, 3)}


def test_what_is_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    saved = save_whole(tmp_path / "whole")
    loaded = load_bundle(tmp_path / "whole")
    assert loaded.manifest == saved.manifest == whole_manifest()
    assert loaded.digest == saved.digest
    assert loaded.path == tmp_path / "whole"
    assert set(loaded.tensors) == set(whole_tensors())
    for name, tensor in whole_tensors().items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_whoever_may_read_the_manifest_may_read_the_tensors(tmp_path: Path) -> None:
    """safetensors leaves files to their owner alone, and a server runs as another user than a trainer."""
    save_whole(tmp_path / "whole")
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "whole").iterdir()}
    plain = tmp_path / "plain"
    plain.touch()
    assert modes == {plain.stat().st_mode & 0o777}


def test_the_parts_have_names(tmp_path: Path) -> None:
    bundle = save_whole(tmp_path / "whole")
    tensors = whole_tensors()
    assert (bundle.name, bundle.version) == ("whole", "1.0")
    for part, name in (
        (bundle.frame_delta, "frame.delta"),
        (bundle.text_prompts, "text.prompts"),
        (bundle.vision_prompts, "vision.prompts"),
        (bundle.lm_head_weight, "lm_head.weight"),
    ):
        assert part is not None
        assert torch.equal(part, tensors[name])
    assert set(bundle.projector_state()) == {"linear_1.weight", "linear_1.bias"}
    border = 3 * (16 * 20 - 8 * 8)
    assert bundle.trained_values == {
        "frame": border,
        "text": 24,
        "vision": 24,
        "projector": 28,
        "lm_head": 20,
    }
    assert bundle.size_bytes == 4 * 3 * 16 * 20 + 2 * 24 + 2 * 24 + 4 * 28 + 4 * 20


def test_a_part_that_is_not_there_is_none(tmp_path: Path) -> None:
    bundle = save_frame(tmp_path / "frame", "frame")
    assert bundle.text_prompts is bundle.vision_prompts is bundle.lm_head_weight is None
    assert bundle.projector_state() == {}


def test_the_papers_frame_trains_69840_values(tmp_path: Path) -> None:
    """METHODS: a 30-pixel frame of a 224-pixel canvas."""
    manifest = Manifest(name="tvp", version="1", frame=FrameSpec())
    bundle = save_bundle(tmp_path / "tvp", manifest, {"frame.delta": torch.zeros(3, 224, 224)})
    assert bundle.trained_values == {"frame": 69_840}


def test_the_digest_is_pinned() -> None:
    assert compute_digest(*pinned()) == PINNED_DIGEST


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"version": "2"},
        {"description": "words"},
        {"metrics": {"accuracy": 0.5}},
        {"provenance": Provenance(method="m2pt", seed=3)},
        {"base_model": BASE.model_copy(update={"id": "another name"})},
    ],
)
def test_what_is_not_served_leaves_the_digest(changes: dict[str, object]) -> None:
    assert compute_digest(whole_manifest(**changes), whole_tensors()) == compute_digest(
        whole_manifest(), whole_tensors()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model": BASE.model_copy(update={"fingerprint": f"sha256:{'1' * 64}"})},
        {"base_model": BASE.model_copy(update={"architecture": "Other"})},
        {"frame": SPEC.model_copy(update={"resample": "bilinear"})},
        {"frame": SPEC.model_copy(update={"value_range": "unit"})},
        {"vision": whole_manifest().vision.model_copy(update={"mode": "paper"})},  # type: ignore[union-attr]
        {"usage": Usage()},
        {"usage": Usage(system="Be brief.", template="Name it: {text}", choices=("dog", "cat"))},
    ],
)
def test_what_is_served_changes_the_digest(changes: dict[str, object]) -> None:
    assert compute_digest(whole_manifest(**changes), whole_tensors()) != compute_digest(
        whole_manifest(), whole_tensors()
    )


def test_every_tensor_changes_the_digest_by_one_bit_dtype_or_shape() -> None:
    before = compute_digest(whole_manifest(), whole_tensors())
    digests = {before}
    for name, tensor in whole_tensors().items():
        nudged = tensor.clone()
        nudged.view(-1).view(torch.int16)[0] ^= 1
        for changed in (nudged, tensor.double(), tensor.reshape(-1)):
            if (
                changed.shape == tensor.shape
                and changed.dtype == tensor.dtype
                and torch.equal(changed, tensor)
            ):
                continue
            digests.add(compute_digest(whole_manifest(), whole_tensors() | {name: changed}))
    bias_is_flat_already = 1
    assert len(digests) == 1 + 3 * len(whole_tensors()) - bias_is_flat_already


def test_order_and_layout_in_memory_leave_the_digest() -> None:
    tensors = whole_tensors()
    turned = {
        name: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for name, tensor in tensors.items()
    }
    backwards = dict(reversed(turned.items()))
    assert compute_digest(whole_manifest(), backwards) == compute_digest(whole_manifest(), tensors)


def test_saving_refuses_what_would_not_load_and_leaves_nothing(tmp_path: Path) -> None:
    tensors = whole_tensors()
    tensors["text.prompts"][0, 0, 0] = float("nan")
    del tensors["vision.prompts"]
    with pytest.raises(BundleError) as refused:
        save_bundle(tmp_path / "whole", whole_manifest(), tensors)
    assert len(refused.value.faults) == 2
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_metrics_that_are_no_numbers(tmp_path: Path) -> None:
    manifest = whole_manifest().model_copy(update={"metrics": {"loss": float("nan")}})  # checks nothing
    with pytest.raises(BundleError, match="metrics, provenance: expected finite numbers"):
        save_bundle(tmp_path / "whole", manifest, whole_tensors())
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_a_bundle_and_leaves_no_trace(tmp_path: Path) -> None:
    first = save_frame(tmp_path / "task", "task")
    second = save_frame(tmp_path / "task", "task", scale=0.5)
    assert first.digest != second.digest == load_bundle(tmp_path / "task").digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["task"]


def test_a_failed_save_keeps_the_bundle_that_was_there(tmp_path: Path) -> None:
    first = save_whole(tmp_path / "task")
    too_much = Provenance(config={"notes": "x" * 2_000_000})
    with pytest.raises(BundleError, match="oversize"):
        save_whole(tmp_path / "task", provenance=too_much)
    assert [entry.name for entry in tmp_path.iterdir()] == ["task"]
    assert load_bundle(tmp_path / "task").digest == first.digest


def test_saving_never_overwrites_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="a new folder or a bundle to replace"):
        save_whole(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_bundle_travels_between_processes(tmp_path: Path) -> None:
    bundle = save_whole(tmp_path / "whole")
    arrived = pickle.loads(pickle.dumps(bundle))
    assert compute_digest(arrived.manifest, arrived.tensors) == bundle.digest


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap this way."""
    digest = save_whole(tmp_path / "whole").digest
    (tmp_path / "whole" / "real.json").write_bytes((tmp_path / "whole" / "bundle.json").read_bytes())
    (tmp_path / "whole" / "bundle.json").unlink()
    (tmp_path / "whole" / "bundle.json").symlink_to("real.json")
    assert load_bundle(tmp_path / "whole").digest == digest
