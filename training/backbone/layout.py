"""What a checkpoint says of itself, and whether it can be asked at all."""

from typing import Any

from prompts.errors import ConfigError, UnsupportedError
from prompts.faults import fault

__all__ = ["check_layout", "image_token_id", "stop_ids_of", "unsupported"]

_ASKED_OF_A_MODEL = ("get_image_features", "get_decoder", "get_output_embeddings")


def check_layout(model: Any) -> None:
    """Looks whether a model can be asked as `Backbone` asks.

    Raises:
        ConfigError: it cannot.
    """
    came = [f"one without {name}" for name in _ASKED_OF_A_MODEL if not hasattr(model, name)]
    if model.config.get_text_config().is_encoder_decoder:
        came.append("an encoder-decoder")
    if came:
        expected = "a vision-language model whose language model is a decoder"
        cure = "use another checkpoint (of BLIP-2 one with OPT)"
        raise ConfigError("model", [fault("model", expected=expected, came=", ".join(came), cure=cure)])


def unsupported(model: Any) -> UnsupportedError:
    """The error of a model that takes no prompts inside of it offline."""
    cure = "use a frame (TVP), or a checkpoint in LLaVA's layout"
    came = type(model).__name__
    expected = "LLaVA's layout for prompts inside the model, offline"
    return UnsupportedError(fault("model", expected=expected, came=came, cure=cure))


def image_token_id(config: Any) -> int:
    """Id of the token that stands for a picture.

    Raises:
        ConfigError: the config names none.
    """
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    expected, cure = "image_token_id in config.json", "use a vision-language checkpoint of transformers"
    raise ConfigError("model", [fault("image_token_id", expected=expected, came="none", cure=cure)])


def stop_ids_of(model: Any, processor: Any) -> list[int]:
    """Ids that end an answer; the tokenizer's own, which chat models end a turn with, comes first.

    Raises:
        ConfigError: there is none.
    """
    named = [processor.tokenizer.eos_token_id]
    more = model.generation_config.eos_token_id
    named += more if isinstance(more, list) else [more]
    stop = list(dict.fromkeys(int(token) for token in named if token is not None))
    if not stop:
        expected, cure = "one in the tokenizer or generation config", "add it there"
        raise ConfigError("model", [fault("eos_token_id", expected=expected, came="none", cure=cure)])
    return stop
