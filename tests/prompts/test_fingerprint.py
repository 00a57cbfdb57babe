"""A base model's fingerprint: the same for the same tensors however stored, another for anything else."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prompts.errors import BaseModelError
from prompts.fingerprint import base_model_ref, fingerprint_model

# Computed once by fingerprint_model of `WEIGHTS`. Bundles carry fingerprints: it must never change.
PINNED = "sha256:0f9f745ad35088dd96ef30018bf4a03b687a06111975fd04aae8639d3ce489f3"
WEIGHTS = {
    "model.a": torch.arange(100, dtype=torch.float32).reshape(10, 10),
    "model.b": torch.arange(6, dtype=torch.bfloat16),
    "model.c": torch.tensor(3),
    "model.d": torch.zeros(2, 0),
}


def checkpoint(folder: Path, *shards: dict[str, Tensor], index: bool = False) -> Path:
    """Write a checkpoint folder of one or several shards."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlavaForConditionalGeneration"]}))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = f"model-{number}.safetensors"
        save_file(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_the_fingerprint_is_pinned(tmp_path: Path) -> None:
    assert fingerprint_model(checkpoint(tmp_path / "m", WEIGHTS)) == PINNED


@pytest.mark.parametrize("index", [True, False])
def test_other_shards_leave_it(index: bool, tmp_path: Path) -> None:
    first = {name: WEIGHTS[name] for name in ("model.d", "model.b")}
    second = {name: WEIGHTS[name] for name in ("model.c", "model.a")}
    assert fingerprint_model(checkpoint(tmp_path / "m", first, second, index=index)) == PINNED


def test_a_file_the_index_does_not_name_leaves_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", WEIGHTS, index=True)
    save_file(WEIGHTS, folder / "consolidated.safetensors")
    assert fingerprint_model(folder) == PINNED


def test_each_tensors_name_dtype_shape_and_first_bytes_change_it(tmp_path: Path) -> None:
    nudged = WEIGHTS["model.a"].clone()
    nudged[0, 15 // 10] += 1
    found = {PINNED}
    for number, change in enumerate(
        (
            {"model.a": nudged},
            {"model.a": WEIGHTS["model.a"].half()},
            {"model.a": WEIGHTS["model.a"].reshape(100)},
            {"model.e": torch.zeros(1)},
            {"model.c": torch.tensor(4)},
        )
    ):
        found.add(fingerprint_model(checkpoint(tmp_path / str(number), WEIGHTS | change)))
    assert len(found) == 6


def test_the_reference_names_architecture_and_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny-llava", WEIGHTS)
    ref = base_model_ref(folder)
    assert (ref.architecture, ref.fingerprint, ref.id) == (
        "LlavaForConditionalGeneration",
        PINNED,
        "tiny-llava",
    )
    assert base_model_ref(folder, id="owner/model").id == "owner/model"


def test_faulty_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"expected \*\.safetensors files, came no such folder"):
        fingerprint_model(tmp_path / "none")
    with pytest.raises(BaseModelError, match=r"expected \*\.safetensors files, came none"):
        fingerprint_model(tmp_path)
    with pytest.raises(BaseModelError, match=r"tensor 'model.[a-d]': expected it once"):
        fingerprint_model(checkpoint(tmp_path / "twice", WEIGHTS, WEIGHTS))
    cut = checkpoint(tmp_path / "cut", WEIGHTS)
    (cut / "model-0.safetensors").write_bytes((cut / "model-0.safetensors").read_bytes()[:-1])
    with pytest.raises(BaseModelError, match=r"model-0.safetensors: expected a safetensors file, came .*cut"):
        fingerprint_model(cut)
    (checkpoint(tmp_path / "lost", WEIGHTS, index=True) / "model-0.safetensors").unlink()
    with pytest.raises(BaseModelError, match="No such file"):
        fingerprint_model(tmp_path / "lost")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.json: expected a JSON file, came none"),
        ("{", "came an unreadable one"),
        ("[]", "expected a JSON object, came list"),
        ("{}", "architectures: expected a list of names, came None"),
        ('{"architectures": []}', r"architectures: expected a list of names, came \[\]"),
    ],
)
def test_a_faulty_config_is_refused(config: str | None, message: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", WEIGHTS)
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(BaseModelError, match=message):
        base_model_ref(folder)
