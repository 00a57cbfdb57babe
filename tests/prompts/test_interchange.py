"""`passepartout task import`: what the papers' own code saves becomes a bundle, value for value."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from prompts.bundle import load_bundle
from prompts.cli import main
from prompts.errors import BundleError, InputError
from prompts.fingerprint import base_model_ref

LAYERS, LENGTH, HIDDEN = 3, 4, 8
VISION_LAYERS, VISION_LENGTH, VISION_HIDDEN = 2, 5, 6


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint as far as its fingerprint goes."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    return folder


def perturbation(border: int = 3) -> Tensor:
    delta = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(1)) * 2
    delta[:, border:-border, border:-border] = 0
    return delta


def m2pt_state() -> dict[str, Tensor]:
    """By the names of METHODS, but for a projector of two layers, as LLaVA-1.5 has."""
    generator = torch.Generator().manual_seed(2)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    state = {f"model.prompts.{layer}": some(1, LENGTH, HIDDEN) for layer in range(LAYERS)}
    tower = "model.vision_tower.vision_tower.vision_model.encoder.prompts"
    state |= {f"{tower}.{layer}": some(1, VISION_LENGTH, VISION_HIDDEN) for layer in range(VISION_LAYERS)}
    state |= {f"model.mm_projector.{n}.bias": some(HIDDEN) for n in (0, 2)}
    state |= {
        "model.mm_projector.0.weight": some(HIDDEN, VISION_HIDDEN),
        "model.mm_projector.2.weight": some(HIDDEN, HIDDEN),
        "lm_head.weight": some(7, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": some(2, 2),
    }
    return state


def run(*arguments: Any) -> int:
    return main(["import", *map(str, arguments)])


@pytest.mark.parametrize("saved", ["by name", "alone", "batched"])
def test_a_tvp_frame_keeps_every_value(
    tmp_path: Path, saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = perturbation()
    held: Any = {"by name": {"perturbation": delta}, "alone": delta, "batched": delta[None]}[saved]
    torch.save(held, tmp_path / "cifar10.pth")
    assert run("tvp", tmp_path / "cifar10.pth", tmp_path / "Birds", "--inner", 14) == 0
    bundle = load_bundle(tmp_path / "Birds")
    assert (bundle.name, bundle.manifest.base_model) == ("birds", None)
    assert bundle.manifest.frame is not None
    assert (bundle.manifest.frame.canvas, bundle.manifest.frame.inner) == ((20, 20), 14)
    assert bundle.frame_delta is not None
    assert torch.equal(bundle.frame_delta, delta)
    assert delta.abs().max() > 1, "values outside [0, 1] are kept"
    assert bundle.digest in capsys.readouterr().out


def test_a_frame_of_another_geometry_is_refused(tmp_path: Path) -> None:
    torch.save({"perturbation": perturbation(border=5)}, tmp_path / "a.pth")
    with pytest.raises(BundleError, match=r"frame\.delta"):
        run("tvp", tmp_path / "a.pth", tmp_path / "out", "--inner", 14)
    with pytest.raises(InputError, match="expected inner to fit canvas"):
        run("tvp", tmp_path / "a.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_m2pt_keeps_every_value(tmp_path: Path, base: Path, sharded: bool) -> None:
    state, source = m2pt_state(), tmp_path / "m2pt"
    if sharded:
        source.mkdir()
        names = sorted(state)
        torch.save({name: state[name] for name in names[::2]}, source / "pytorch_model-00001-of-00002.bin")
        save_file({name: state[name] for name in names[1::2]}, source / "adapter.safetensors")
        torch.save(Code(tmp_path / "ran"), source / "training_args.bin")  # as transformers' Trainer leaves it
    else:
        source = source.with_suffix(".bin")
        torch.save(state, source)
    run("m2pt", source, tmp_path / "task", "--base", base, "--lm-head")
    bundle = load_bundle(tmp_path / "task")
    assert bundle.manifest.base_model == base_model_ref(base)
    assert bundle.manifest.vision is not None
    assert bundle.manifest.vision.mode == "released"
    assert bundle.text_prompts is not None
    assert bundle.vision_prompts is not None
    for layer in range(LAYERS):
        assert torch.equal(bundle.text_prompts[layer], state[f"model.prompts.{layer}"][0])
    for layer in range(VISION_LAYERS):
        name = f"model.vision_tower.vision_tower.vision_model.encoder.prompts.{layer}"
        assert torch.equal(bundle.vision_prompts[layer], state[name][0])
    projector = bundle.projector_state()
    for number, inner in ((0, "linear_1"), (2, "linear_2")):
        for kind in ("weight", "bias"):
            assert torch.equal(projector.pop(f"{inner}.{kind}"), state[f"model.mm_projector.{number}.{kind}"])
    assert projector == {}
    assert bundle.lm_head_weight is not None
    assert torch.equal(bundle.lm_head_weight, state["lm_head.weight"])


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu"])
def test_the_released_projector_of_one_layer_maps_as_it_did(
    tmp_path: Path, base: Path, activation: str
) -> None:
    """METHODS: `model.mm_projector.{weight,bias}`. transformers' LLaVA has two layers and an activation."""
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(14, 6, generator=generator), torch.randn(14, generator=generator)
    torch.save({"model.mm_projector.weight": weight, "model.mm_projector.bias": bias}, tmp_path / "m2pt.bin")
    run("m2pt", tmp_path / "m2pt.bin", tmp_path / "task", "--base", base)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=6, num_attention_heads=1),
        text_config=LlamaConfig(hidden_size=14, num_attention_heads=1),
        projector_hidden_act=activation,
    )
    projector = LlavaMultiModalProjector(config)
    projector.load_state_dict(load_bundle(tmp_path / "task").projector_state())
    states = 3 * torch.randn(5, 6, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(projector(states), states @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_a_projector_of_one_layer_that_is_too_wide_is_refused(tmp_path: Path, base: Path) -> None:
    torch.save({"model.mm_projector.weight": torch.ones(7, 4)}, tmp_path / "m2pt.bin")
    with pytest.raises(InputError, match=r"d at least 2 d_v.*came \(7, 4\); .*--no-projector"):
        run("m2pt", tmp_path / "m2pt.bin", tmp_path / "task", "--base", base)


def test_a_projector_of_one_layer_needs_an_activation_it_can_be_split_by(tmp_path: Path, base: Path) -> None:
    (base / "config.json").write_text(
        '{"architectures": ["LlavaForConditionalGeneration"], "projector_hidden_act": "tanh"}'
    )
    torch.save({"model.mm_projector.weight": torch.ones(9, 4)}, tmp_path / "m2pt.bin")
    with pytest.raises(InputError, match=r"projector_hidden_act one of gelu, .*came tanh; .*--no-projector"):
        run("m2pt", tmp_path / "m2pt.bin", tmp_path / "task", "--base", base)


@pytest.mark.parametrize("second", ["model.prompts.1", "base_model.model.model.prompts.1"])
def test_two_trainings_in_one_folder_are_refused(tmp_path: Path, base: Path, second: str) -> None:
    source = tmp_path / "m2pt"
    source.mkdir()
    save_file(m2pt_state(), source / "model.safetensors")
    torch.save({second: torch.ones(1, LENGTH, HIDDEN)}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"each tensor once, .*prompts\.1'\] twice; leave one"):
        run("m2pt", source, tmp_path / "task", "--base", base)


def test_parts_may_be_left_out(tmp_path: Path, base: Path) -> None:
    torch.save(m2pt_state(), tmp_path / "m2pt.bin")
    run("m2pt", tmp_path / "m2pt.bin", tmp_path / "task", "--base", base, "--no-projector", "--mode", "paper")
    manifest = load_bundle(tmp_path / "task").manifest
    assert (manifest.projector, manifest.lm_head) == (False, False)
    assert manifest.vision is not None
    assert manifest.vision.mode == "paper"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.prompts.1": None}, r"model\.prompts of every layer, came none of \[1\]; give all shards"),
        ({"model.prompts.1": torch.ones(1, 5, HIDDEN)}, r"\(1, P, d\) in every layer"),
        ({"model.mm_projector.weight": torch.ones(2, 2)}, r"came mm_projector\.weight; .*--no-projector"),
        ({"model.mm_projector.4.bias": torch.ones(2)}, r"came mm_projector\.4\.bias; .*--no-projector"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, base: Path, change: dict[str, Tensor | None], said: str
) -> None:
    state = {name: tensor for name, tensor in (m2pt_state() | change).items() if tensor is not None}
    torch.save(state, tmp_path / "m2pt.bin")
    with pytest.raises(InputError, match=said):
        run("m2pt", tmp_path / "m2pt.bin", tmp_path / "task", "--base", base)


class Code:
    """A pickle that would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"perturbation": Code(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="expected tensors alone, came a pickle of other objects"):
        run("tvp", tmp_path / "evil.pth", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["tvp", "m2pt"])
@pytest.mark.parametrize("content", [None, b"", b"not weights", "other"])
def test_what_holds_no_prompt_is_refused(tmp_path: Path, base: Path, kind: str, content: Any) -> None:
    source = tmp_path / "source.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content == "other":
        torch.save({"weight": torch.ones(2)}, source)
    more = ["--base", base] if kind == "m2pt" else []
    with pytest.raises(InputError, match=re.escape(source.name) + ": expected .*, came "):
        run(kind, source, tmp_path / "out", *more)


def test_a_folder_that_is_no_name_needs_one(tmp_path: Path) -> None:
    torch.save(perturbation(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="--name: expected a name like"):
        run("tvp", tmp_path / "a.pth", tmp_path / "a task", "--inner", 14)
    assert run("tvp", tmp_path / "a.pth", tmp_path / "a task", "--inner", 14, "--name", "a-task") == 0
