"""`passepartout task import|export peft` on adapters that PEFT itself saved, and for PEFT itself to load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from passepartout import main
from prompts.bundle import Bundle, load_bundle, save_bundle
from prompts.errors import BaseModelError, InputError
from prompts.fingerprint import base_model_ref
from prompts.interchange_peft import export_peft, import_peft
from prompts.manifest import FrameSpec, Manifest, TextSpec, Usage

LAYERS, LENGTH, HIDDEN, HEADS, KV_HEADS = 3, 4, 16, 4, 2
HEAD = HIDDEN // HEADS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def make_model(seed: int = 0, **changes: int) -> LlamaForCausalLM:
    """A tiny Llama with fewer heads for keys than for queries."""
    sizes = {
        "vocab_size": 32,
        "hidden_size": HIDDEN,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    return folder


CONFIGS: dict[str, Callable[[], Any]] = {
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH),
    "p-tuning-mlp": lambda: PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, encoder_hidden_size=12
    ),
    "p-tuning-lstm": lambda: PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=LENGTH,
        encoder_hidden_size=12,
        encoder_reparameterization_type="LSTM",
    ),
    "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH),
    "prefix-projected": lambda: PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, prefix_projection=True, encoder_hidden_size=12
    ),
}
AT_THE_INPUT = ("prompt", "p-tuning-mlp", "p-tuning-lstm")


def save_adapter(folder: Path, config: Any, *, seed: int = 1, **changes: int) -> PeftModel:
    """A random adapter, saved by PEFT; the model it is in, as trained (encoders and all)."""
    model = get_peft_model(make_model(**changes), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                assert "prompt_encoder" in name or "lora" in name
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", AT_THE_INPUT)
def test_what_enters_at_the_input_is_what_peft_puts_there(tmp_path: Path, base: Path, kind: str) -> None:
    """PEFT's own `get_prompt`, encoder and all, against the bundle."""
    model = save_adapter(tmp_path / "adapter", CONFIGS[kind]())
    arguments = ["task", "import", "peft", str(tmp_path / "adapter"), str(tmp_path / "my-task")]
    assert main([*arguments, "--base", str(base)]) == 0
    bundle = load_bundle(tmp_path / "my-task")
    assert bundle.name == "my-task"
    assert bundle.manifest.base_model == base_model_ref(base)
    assert bundle.manifest.text == TextSpec(layers=LAYERS, length=LENGTH, hidden=HIDDEN, at=(0,))
    assert bundle.text_prompts is not None
    torch.testing.assert_close(bundle.text_prompts, model.get_prompt(1).detach())  # an LSTM varies by a bit
    assert bundle.manifest.provenance.method == ("prompt_tuning" if kind == "prompt" else "p_tuning")
    assert bundle.manifest.provenance.config["peft_version"] is not None


@pytest.mark.parametrize("kind", ["prefix", "prefix-projected"])
def test_a_prefix_is_the_cache_that_peft_begins_with(tmp_path: Path, base: Path, kind: str) -> None:
    model = save_adapter(tmp_path / "adapter", CONFIGS[kind]())
    bundle = import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)
    spec = bundle.manifest.prefix
    assert spec is not None
    assert (spec.layers, spec.length, spec.kv_heads, spec.head_dim) == (LAYERS, LENGTH, KV_HEADS, HEAD)
    cache = model.get_prompt(1)
    for layer in range(LAYERS):
        for name, states in (("keys", cache.layers[layer].keys), ("values", cache.layers[layer].values)):
            by_head = bundle.tensors[f"prefix.{name}"][layer].view(LENGTH, KV_HEADS, HEAD).transpose(0, 1)
            assert torch.equal(by_head, states[0]), (layer, name)


@pytest.mark.parametrize("kind", CONFIGS)
def test_there_and_back(tmp_path: Path, base: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is exported, PEFT loads and answers with as with its own; imported again it is the same bundle."""
    own = save_adapter(tmp_path / "adapter", CONFIGS[kind]())
    first = import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)
    assert main(["task", "export", "peft", str(tmp_path / "task"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    saved, exported = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "out")
    )
    assert exported.keys() == saved.keys() == {"prompt_embeddings"}
    assert torch.equal(exported["prompt_embeddings"], saved["prompt_embeddings"])
    second = import_peft(tmp_path / "out", tmp_path / "again", name="task", base=base)
    assert second.digest == first.digest
    ids = torch.tensor([[1, 5, 9, 2]])
    loaded = PeftModel.from_pretrained(make_model(), str(tmp_path / "out")).eval()
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (own, loaded)]
        plain = make_model()(input_ids=ids).logits
    torch.testing.assert_close(*logits)
    assert not torch.allclose(logits[0][:, -1], plain[:, -1], atol=1e-2)


def test_usage_is_said_to_stay_behind(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_text(tmp_path / "task", base, at=(0,), usage=Usage(template="Name it: {text}"))
    assert main(["task", "export", "peft", str(tmp_path / "task"), str(tmp_path / "out")]) == 0
    assert "not exported: usage" in capsys.readouterr().out


def save_text(folder: Path, base: Path, *, at: tuple[int, ...] | None, **parts: Any) -> Bundle:
    text = TextSpec(layers=LAYERS, length=2, hidden=HIDDEN, at=at)
    tensors: dict[str, Tensor] = {"text.prompts": torch.ones(len(text.layer_indices), 2, HIDDEN)}
    if parts.get("frame"):
        tensors["frame.delta"] = torch.zeros(3, 8, 8)
    manifest = Manifest(name="task", version="1", base_model=base_model_ref(base), text=text, **parts)
    return save_bundle(folder, manifest, tensors)


@pytest.mark.parametrize(
    ("at", "parts", "came"),
    [
        (None, {}, "text at 3 layers"),
        ((0, 2), {}, "text at 2 layers"),
        ((0,), {"frame": FrameSpec(canvas=(8, 8), inner=4)}, "frame"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(
    tmp_path: Path, base: Path, at: tuple[int, ...] | None, parts: dict[str, Any], came: str
) -> None:
    bundle = save_text(tmp_path / "task", base, at=at, **parts)
    with pytest.raises(InputError, match=rf"expected text prompts at the input alone.*, came {came}; PEFT's"):
        export_peft(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_overwrites_nothing(tmp_path: Path, base: Path) -> None:
    bundle = save_text(tmp_path / "task", base, at=(0,))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out: expected a new folder, came one with files in it"):
        export_peft(bundle, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: expected a folder to write, came "):
        export_peft(bundle, tmp_path / "file")


def test_lora_is_sent_to_vllm(tmp_path: Path, base: Path) -> None:
    save_adapter(tmp_path / "adapter", LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    with pytest.raises(
        InputError, match=r"peft_type: .*came 'LORA'; vLLM serves LoRA itself: .*--enable-lora"
    ):
        import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)
    assert not (tmp_path / "task").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "came 'MULTITASK_PROMPT_TUNING'; train a prompt instead"),
        ({"peft_type": None}, "peft_type: expected one of PROMPT_TUNING, P_TUNING, PREFIX_TUNING, came None"),
        (
            {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2},
            "only decoder-only models are served",
        ),
        ({"task_type": "SEQ_CLS"}, "task_type: expected 'CAUSAL_LM', came 'SEQ_CLS'"),
        ({"num_virtual_tokens": 5}, r"prompt_embeddings: expected shape \(5, 16\) .*, came shape \(4, 16\)"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens: expected 1 or more, came None"),
        ({"num_layers": 2}, r"num_layers: expected 3 \(the base model's layers\), came 2"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, base: Path, change: dict[str, Any], said: str) -> None:
    save_adapter(tmp_path / "adapter", CONFIGS["prompt"]())
    edit_config(tmp_path / "adapter", change)
    with pytest.raises(InputError, match=f"^adapter: .*{said}"):
        import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)


def edit_config(adapter: Path, change: dict[str, Any]) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            "prompt",
            {"hidden_size": 8},
            r"prompt_embeddings: expected shape \(4, 16\) .*, came shape \(4, 8\)",
        ),
        ("prefix", {"num_key_value_heads": 1}, r"token_dim: expected 8 \(the base model's keys\), came 4"),
        ("prefix", {"num_hidden_layers": 2}, r"num_layers: expected 3 .*; prompt_embeddings: expected shape"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    tmp_path: Path, base: Path, kind: str, changes: dict[str, int], said: str
) -> None:
    save_adapter(tmp_path / "adapter", CONFIGS[kind](), **changes)
    with pytest.raises(InputError, match=said):
        import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)


def test_a_base_that_adds_position_embeddings_takes_prefixes_alone(tmp_path: Path) -> None:
    """OPT adds them to PEFT's prompts too; ours stand in the model as they are."""
    config = OPTConfig(
        vocab_size=32,
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        ffn_dim=24,
        max_position_embeddings=64,
    )
    model = OPTForCausalLM(config)
    model.save_pretrained(tmp_path / "opt")
    for kind, is_taken in (("prompt", False), ("prefix", True)):
        get_peft_model(OPTForCausalLM(config), CONFIGS[kind]()).save_pretrained(tmp_path / kind)
        arguments = ["task", "import", "peft", str(tmp_path / kind), str(tmp_path / f"of-{kind}")]
        assert main([*arguments, "--base", str(tmp_path / "opt")]) == (0 if is_taken else 2)
        assert (tmp_path / f"of-{kind}").exists() == is_taken
    assert main(["task", "export", "peft", str(tmp_path / "of-prefix"), str(tmp_path / "back")]) == 0
    text = TextSpec(layers=LAYERS, length=1, hidden=HIDDEN, at=(0,))
    manifest = Manifest(name="a", version="1", base_model=base_model_ref(tmp_path / "opt"), text=text)
    save_bundle(tmp_path / "text", manifest, {"text.prompts": torch.ones(1, 1, HIDDEN)})
    assert main(["task", "export", "peft", str(tmp_path / "text"), str(tmp_path / "out")]) == 2


@pytest.mark.parametrize(("length", "extra"), [(5000, {}), (LENGTH, {"note": float("nan")})])
def test_what_no_bundle_can_hold_is_named(
    tmp_path: Path, base: Path, length: int, extra: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    save_adapter(folder, CONFIGS["prompt"]())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | extra | {"num_virtual_tokens": length}))
    save_file({"prompt_embeddings": torch.ones(length, HIDDEN)}, folder / "adapter_model.safetensors")
    assert main(["task", "import", "peft", str(folder), str(tmp_path / "task"), "--base", str(base)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: adapter: ")
    assert ("length" if length > LENGTH else "config") in said


def test_trained_modules_beside_the_prompt_are_refused(tmp_path: Path, base: Path) -> None:
    save_adapter(tmp_path / "adapter", CONFIGS["prompt"]())
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.lm_head.weight": torch.ones(2, 2)}, file)
    with pytest.raises(InputError, match=r"expected prompt_embeddings alone, .*modules_to_save"):
        import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)


def test_an_old_pickle_is_read_as_weights_alone(tmp_path: Path, base: Path) -> None:
    save_adapter(tmp_path / "adapter", CONFIGS["prompt"]())
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    file.unlink()
    torch.save(state, tmp_path / "adapter" / "adapter_model.bin")
    bundle = import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)
    assert bundle.text_prompts is not None
    assert torch.equal(bundle.text_prompts[0], state["prompt_embeddings"])
    torch.save({"prompt_embeddings": Path}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match="expected tensors alone"):
        import_peft(tmp_path / "adapter", tmp_path / "again", name="task", base=base)


@pytest.mark.parametrize("content", [None, "no json", "[]"])
def test_what_is_no_adapter_is_refused(tmp_path: Path, base: Path, content: str | None) -> None:
    (tmp_path / "adapter").mkdir()
    if content is not None:
        (tmp_path / "adapter" / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=r"adapter.*: expected .*, came "):
        import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=base)


def test_a_base_without_a_language_model_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", CONFIGS["prompt"]())
    (tmp_path / "base").mkdir()
    save_file({"weight": torch.ones(2)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(BaseModelError, match=r"base: expected one language model \(embed_tokens\.weight"):
        import_peft(tmp_path / "adapter", tmp_path / "task", name="task", base=tmp_path / "base")


@pytest.mark.parametrize(
    ("verb", "taught"),
    [
        ("import", ("PROMPT_TUNING", "PREFIX_TUNING", "--enable-lora", "--base")),
        ("export", ("PROMPT_TUNING",)),
    ],
)
def test_the_help_teaches(verb: str, taught: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["task", verb, "peft", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [word for word in taught if word not in said] == []
