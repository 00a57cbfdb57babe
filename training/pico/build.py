"""`passepartout model build pico-llava`: assembles the embedded model offline, a standard LLaVA checkpoint.

SmolLM2-135M-Instruct comes from its package; the tower, the projector and the low-rank updates come from
`weights/` and are merged here. Beside the checkpoint lies `clip/`, the tiny CLIP that TSE uses. No custom
code: transformers and vLLM load both as they are.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, GenerationConfig, LlavaConfig, LlavaProcessor

from prompts.errors import BaseModelError
from prompts.faults import fault
from training.paths import model_folder
from training.pico.anatomy import (
    CHAT_TEMPLATE,
    IMAGE_MEAN,
    IMAGE_STD,
    IMAGE_TOKEN,
    VISION_FEATURE_LAYER,
    VISION_TOKENS,
    WEIGHTS_FOLDER,
    clip_config,
    clip_tokenizer,
    language_model,
    language_tokenizer,
    vision_config,
)

__all__ = ["CLIP_WEIGHTS", "LLAVA_WEIGHTS", "build_pico_llava", "is_current", "main"]

CLIP_WEIGHTS = WEIGHTS_FOLDER / "clip.safetensors"
LLAVA_WEIGHTS = WEIGHTS_FOLDER / "llava.safetensors"
_SOURCE_FILE = "built-from.sha256"
_VOCABULARY_MULTIPLE = 64


def build_pico_llava(out: Path) -> Path:
    """Writes the checkpoint to `out` (replacing what is there) and returns it; about 20 s on two cores.

    Raises:
        BaseModelError: the repository's weights are missing.
    """
    for file in (CLIP_WEIGHTS, LLAVA_WEIGHTS):
        if not file.is_file():
            cure = "run `passepartout model train pico-llava`"
            raise BaseModelError(
                fault("weights", expected=f"{file.name} in the package", came="no such file", cure=cure)
            )
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _write_llava(draft, load_file(CLIP_WEIGHTS), load_file(LLAVA_WEIGHTS))
    _write_clip(draft / "clip", load_file(CLIP_WEIGHTS))
    (draft / _SOURCE_FILE).write_text(_source_digest(), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)
    return out


def is_current(out: Path) -> bool:
    """Whether `out` holds a build of the weights and the code that are here now."""
    file = out / _SOURCE_FILE
    return file.is_file() and file.read_text(encoding="utf-8") == _source_digest()


def _source_digest() -> str:
    """sha256 over what a build is made from: the weights, and the modules that put them together."""
    sources = [CLIP_WEIGHTS, LLAVA_WEIGHTS, Path(__file__), Path(__file__).with_name("anatomy.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()


def _write_llava(folder: Path, clip: dict[str, Tensor], taught: dict[str, Tensor]) -> None:
    language = language_model()
    tokenizer = language_tokenizer()
    state = merged(language.model.state_dict(), taught)
    state["embed_tokens.weight"] = _grown(state["embed_tokens.weight"], _padded(len(tokenizer)))
    tensors = {f"language_model.model.{name}": tensor for name, tensor in state.items()}
    for name, tensor in clip.items():
        if name.startswith("vision_model."):
            tensors[f"vision_tower.{name}"] = tensor
    for name, tensor in taught.items():
        if name.startswith("projector."):
            tensors[name.replace("projector.", "multi_modal_projector.", 1)] = tensor
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "model.safetensors").chmod(0o644)  # the server may run as another user
    text_config = language.config
    text_config.vocab_size = _padded(len(tokenizer))
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=VISION_FEATURE_LAYER,
        vision_feature_select_strategy="default",
        image_seq_length=VISION_TOKENS,
        tie_word_embeddings=True,
        architectures=["LlavaForConditionalGeneration"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    pictures = CLIPImageProcessor(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
    )
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=vision_config().patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def _write_clip(folder: Path, tensors: dict[str, Tensor]) -> None:
    clip = CLIPModel(clip_config())
    clip.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    clip.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(image_mean=IMAGE_MEAN, image_std=IMAGE_STD).save_pretrained(folder)


def merged(state: dict[str, Tensor], taught: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model's weights with each low-rank update (`updates.<path>.a|b`) added, in bf16.

    In double precision, so that every machine builds the same bytes and bundles find the base they were
    made for.
    """
    state = dict(state)
    for name in [name for name in taught if name.endswith(".a")]:
        path = name.removeprefix("updates.").removesuffix(".a")
        weight = path.removeprefix("model.") + ".weight"
        update = taught[name.removesuffix(".a") + ".b"].double() @ taught[name].double()
        state[weight] = (state[weight].double() + update).to(torch.bfloat16)
    return state


def _grown(embeddings: Tensor, rows: int) -> Tensor:
    """Embeddings (V, d) with the mean row repeated up to `rows`: new tokens never win a greedy step."""
    mean = embeddings.double().mean(0, keepdim=True).to(embeddings.dtype)
    return torch.cat([embeddings, mean.expand(rows - len(embeddings), -1)])


def _padded(tokens: int) -> int:
    return -(-tokens // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def main(argv: list[str]) -> int:
    """The command `passepartout model build pico-llava`."""
    parser = argparse.ArgumentParser(
        prog="passepartout model build pico-llava",
        description="Assemble pico-llava, the embedded model, offline (about 20 s, 290 MB).",
    )
    parser.add_argument(
        "--out", type=Path, default=model_folder("pico-llava"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave a build of these weights as it is")
    options = parser.parse_args(argv)
    if not (options.keep and is_current(options.out)):
        build_pico_llava(options.out)
    print(f"pico-llava is at {options.out}")
    return 0
