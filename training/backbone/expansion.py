"""What a picture becomes in a prompt: the token ids that a checkpoint's processor puts in its place.

In most layouts one image token of the rendered text becomes many, with marks around them or between rows; in
BLIP-2's the text has no mark and the picture's tokens come first. What comes out depends on the size of the
picture alone, so it is asked once for each size.
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from prompts.errors import ConfigError
from prompts.faults import fault

__all__ = ["Expansion", "probe"]


@dataclass(frozen=True)
class Expansion:
    """`ids` stand for one picture; `first`: at the start of the prompt, the text having no mark."""

    ids: tuple[int, ...]
    first: bool


def probe(processor: Any, rendered: str, *, size: tuple[int, int], image_token_id: int) -> Expansion:
    """Asks the processor with a blank picture of `size` (width, height) and a text rendered for one picture.

    Raises:
        ConfigError: it changes more of the text than the picture's place.
    """
    blank = Image.new("RGB", size, (128, 128, 128))
    whole = processor(images=[blank], text=[rendered], add_special_tokens=False, return_tensors="pt")
    ids = whole["input_ids"][0].tolist()
    plain = list(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"])
    first = image_token_id not in plain
    before = 0 if first else plain.index(image_token_id)
    after = plain if first else plain[before + 1 :]
    put = tuple(ids[before : len(ids) - len(after)])
    if [*plain[:before], *put, *after] != ids or image_token_id not in put:
        expected = "a processor that puts the picture's tokens in its place and leaves the text alone"
        cure = "this layout cannot be trained on"
        raise ConfigError("model", [fault("processor", expected=expected, came="other ids", cure=cure)])
    return Expansion(put, first)
