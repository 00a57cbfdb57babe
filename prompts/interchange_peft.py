"""Prompts in the format of Hugging Face PEFT: adapters made into bundles, and bundles into adapters.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, which holds one tensor,
`prompt_embeddings`. PEFT 0.21 saves what its prompt encoder gives, never the encoder (`P_TUNING`'s MLP or
LSTM, `PREFIX_TUNING`'s projection), so there is none to fold away here. Offline: nothing that serves imports
this.

PROMPT_TUNING, P_TUNING   (P, d)           in front of the text's embeddings   -> `text`, at the input
PREFIX_TUNING             (P, L · 2 · w)   layer by layer keys, then values    -> `prefix`

P: virtual tokens; L, d: layers and width of the language model; w: width of all of a layer's keys.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from prompts.bundle import Bundle, save_bundle
from prompts.contents import PREFIX_KEYS, PREFIX_VALUES, TEXT
from prompts.decoder import DecoderShape, read_decoder_shape
from prompts.errors import InputError
from prompts.faults import fault, in_one_line, shown, validation_faults
from prompts.fingerprint import base_model_ref
from prompts.manifest import Manifest, PrefixSpec, Provenance, TextSpec
from prompts.weights import read_weights, refused, storable

__all__ = ["export_peft", "import_peft"]

CONFIG_FILE, TENSORS_FILE, PICKLE_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
EMBEDDINGS = "prompt_embeddings"
KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
_WITH_POSITIONS = {"Blip2ForConditionalGeneration", "OPTForCausalLM"}
TASK_TYPE = "CAUSAL_LM"
_OTHER_CURE = "train a prompt instead, or merge the adapter into its model with PEFT's merge_and_unload"
_NO_POSITIONS = (
    "PEFT's prompts get this base model's position embeddings added, learned prompts here do not: train a "
    "prefix, or another base model"
)
_CURES = {"LORA": "vLLM serves LoRA itself: passepartout serve --enable-lora --lora-modules NAME=FOLDER"}


def import_peft(source: Path, out: Path, *, name: str, base: Path) -> Bundle:
    """Makes a bundle of the adapter in the folder `source`, trained in the checkpoint in `base`.

    Raises:
        InputError: no such adapter, one of another kind or for an encoder-decoder model, a tensor of another
            shape than its config or the base model says.
        BaseModelError: `base` holds no checkpoint, or none of a language model.
    """
    config = _read_config(source)
    prompts, decoder = _read_prompts(source), read_decoder_shape(base)
    _check(source, _misfits(config, prompts, decoder))
    kind = config["peft_type"]
    try:
        spec, tensors = _split(config, storable(prompts), decoder)
        manifest = Manifest(
            name=name,
            version="1",
            description=f"A PEFT {kind} adapter, imported",
            base_model=base_model_ref(base),
            text=spec if isinstance(spec, TextSpec) else None,
            prefix=spec if isinstance(spec, PrefixSpec) else None,
            provenance=Provenance(
                method=kind.lower(), data={"imported_from": source.resolve().name}, config=config
            ),
        )
    except ValidationError as error:
        raise InputError(f"{source.resolve().name}: {in_one_line(validation_faults(error))}") from error
    return save_bundle(out, manifest, tensors)


def export_peft(bundle: Bundle, out: Path) -> None:
    """Writes `bundle` into the new folder `out` as an adapter that PEFT loads.

    Text prompts at the input become `PROMPT_TUNING`, a prefix `PREFIX_TUNING`. The bundle's `usage` has no
    place in the format.

    Raises:
        InputError: the bundle carries something else, or `out` is not free.
    """
    config, prompts = _joined(bundle)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise refused(out, "a new folder", "one with files in it", "choose another place")
        save_file({EMBEDDINGS: prompts.contiguous()}, out / TENSORS_FILE, metadata={"format": "pt"})
        (out / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        came = error.strerror or type(error).__name__
        raise refused(out, "a folder to write", came, "choose another place") from error


# An adapter's files ----------------------------------------------------------------------------------------


def _read_config(source: Path) -> dict[str, Any]:
    """The adapter's config, of a kind that can become a bundle."""
    file = source / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        expected = f"a PEFT adapter's folder ({CONFIG_FILE}, {TENSORS_FILE})"
        came = f"{CONFIG_FILE}: {error.strerror or type(error).__name__}"
        raise refused(source, expected, came, "give the folder that save_pretrained wrote") from error
    except ValueError as error:
        raise refused(file, "JSON in UTF-8", str(error), "save the adapter again") from error
    if not isinstance(config, dict):
        raise refused(file, "a JSON object", type(config).__name__, "save the adapter again")
    _check(source, _kind_faults(config))
    return config


def _kind_faults(config: dict[str, Any]) -> list[str]:
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in KINDS:
        cure = _CURES.get(str(kind), _OTHER_CURE)
        return [fault("peft_type", expected=f"one of {', '.join(KINDS)}", came=shown(kind), cure=cure)]
    if task != TASK_TYPE or config.get("num_transformer_submodules") not in (None, 1):
        cure = "only decoder-only models are served: train it on one, with task_type CAUSAL_LM"
        came = f"{task!r}, num_transformer_submodules {config.get('num_transformer_submodules')}"
        return [fault("task_type", expected=repr(TASK_TYPE), came=came, cure=cure)]
    length = config.get("num_virtual_tokens")
    if type(length) is not int or length < 1:
        cure = "save the adapter again"
        return [fault("num_virtual_tokens", expected="1 or more", came=shown(length), cure=cure)]
    return []


def _read_prompts(source: Path) -> Tensor:
    """(P, …), alone in its file."""
    file = source / TENSORS_FILE
    if not file.exists() and (source / PICKLE_FILE).exists():
        file = source / PICKLE_FILE
    held = read_weights(file)
    names = ["a tensor without a name"] if isinstance(held, Tensor) else sorted(held)
    if isinstance(held, Tensor) or names != [EMBEDDINGS]:
        cure = "trained modules of the base model (modules_to_save) are no prompt: train without them"
        raise refused(file, f"{EMBEDDINGS} alone", shown(names), cure)
    return held[EMBEDDINGS]


def _misfits(config: dict[str, Any], prompts: Tensor, decoder: DecoderShape) -> list[str]:
    layers = config.get("num_layers")
    faults = []
    if layers not in (None, decoder.layers):
        faults.append(_misfit("num_layers", f"{decoder.layers} (the base model's layers)", str(layers)))
    if config["peft_type"] == "PREFIX_TUNING":
        heads, width = config.get("num_attention_heads"), config.get("token_dim")
        if type(heads) is not int or type(width) is not int or heads < 1 or width % heads:
            expected = "num_attention_heads that divide token_dim"
            return [*faults, _misfit("heads", expected, f"{heads} of {width}")]
        if decoder.kv_width not in (None, width):
            faults.append(_misfit("token_dim", f"{decoder.kv_width} (the base model's keys)", str(width)))
        shape, said = (config["num_virtual_tokens"], decoder.layers * 2 * width), "layers x 2 x token_dim"
    else:
        if decoder.adds_positions:
            faults.append(fault("peft_type", expected=KINDS[2], came=config["peft_type"], cure=_NO_POSITIONS))
        shape, said = (config["num_virtual_tokens"], decoder.hidden), "the base model's width"
    if tuple(prompts.shape) != shape:
        expected = f"shape {shape} (num_virtual_tokens, {said})"
        faults.append(_misfit(EMBEDDINGS, expected, f"shape {tuple(prompts.shape)}"))
    return faults


def _misfit(field: str, expected: str, came: str) -> str:
    cure = "give the base model that the adapter was trained in"
    return fault(field, expected=expected, came=came, cure=cure)


def _check(source: Path, faults: list[str]) -> None:
    if faults:
        raise InputError(f"{source.resolve().name}: {'; '.join(faults)}")


# Between the two formats -----------------------------------------------------------------------------------


def _split(
    config: dict[str, Any], prompts: Tensor, decoder: DecoderShape
) -> tuple[TextSpec | PrefixSpec, dict[str, Tensor]]:
    """The part of the manifest and the tensors that `prompts` become."""
    layers, length = decoder.layers, len(prompts)
    if config["peft_type"] != "PREFIX_TUNING":
        spec = TextSpec(layers=layers, length=length, hidden=decoder.hidden, at=(0,))
        return spec, {TEXT: prompts.unsqueeze(0)}
    heads, width = config["num_attention_heads"], config["token_dim"]
    keys, values = prompts.view(length, layers, 2, width).permute(2, 1, 0, 3)
    prefix = PrefixSpec(layers=layers, length=length, kv_heads=heads, head_dim=width // heads)
    return prefix, {PREFIX_KEYS: keys, PREFIX_VALUES: values}


def _joined(bundle: Bundle) -> tuple[dict[str, Any], Tensor]:
    """`adapter_config.json` and `prompt_embeddings` of a bundle."""
    manifest = bundle.manifest
    others = [name for name in ("frame", "vision", "projector", "lm_head") if getattr(manifest, name)]
    text, prefix, base = manifest.text, manifest.prefix, manifest.base_model
    config = {
        "base_model_name_or_path": base.id if base else None,
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "task_type": TASK_TYPE,
    }
    if text is not None and base is not None and base.architecture in _WITH_POSITIONS:
        others.append(f"text for {base.architecture}, whose inputs get position embeddings added")
    if text is not None and text.layer_indices == (0,) and not others:
        assert bundle.text_prompts is not None
        config |= {"peft_type": KINDS[0], "token_dim": text.hidden}
        config |= {"num_layers": text.layers, "num_virtual_tokens": text.length}
        return config, bundle.text_prompts[0]
    if prefix is not None and not others:
        config |= {"peft_type": KINDS[2], "token_dim": prefix.width, "num_attention_heads": prefix.kv_heads}
        config |= {"num_layers": prefix.layers, "num_virtual_tokens": prefix.length}
        both = bundle.tensors[PREFIX_KEYS], bundle.tensors[PREFIX_VALUES]
        return config, torch.stack(both).permute(2, 1, 0, 3).flatten(1)
    came = ", ".join([*_deep(text), *others])
    cure = "PEFT's format has no place for the rest: serve the bundle as it is"
    expected = "text prompts at the input alone (at [0]), or a prefix"
    raise InputError(fault(f"task {shown(bundle.name)}", expected=expected, came=came, cure=cure))


def _deep(text: TextSpec | None) -> list[str]:
    return [] if text is None or text.layer_indices == (0,) else [f"text at {len(text.layer_indices)} layers"]
