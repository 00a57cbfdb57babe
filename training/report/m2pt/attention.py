"""Where the first token of an answer looks from: attention of the question's last row, in the last layers.

The paper draws it over the prompt rows; here the rows of picture and question stand beside them. Weights are
the mean over a layer's heads, and those of one layer sum to one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prompts.bundle import Bundle
from training.backbone import DeepPrompts, LlavaBackbone, PictureInputs
from training.chat import Encoded
from training.data import Example

__all__ = ["Look", "look_at"]


@dataclass(frozen=True)
class Look:
    """One example's attention in K layers, each (K, rows) of weights.

    Attributes:
        seen: the picture as the tower has it.
        layers: numbers of the layers, from 0.
        text: of the P_t learned rows before the first token.
        vision: of what a picture has before its patches: learned rows, and the class row where it is kept.
        patches: (K, side, side) of the picture's patches.
        question: of the other tokens, named by `tokens`.
    """

    seen: Image.Image
    layers: tuple[int, ...]
    text: NDArray[np.float64]
    vision: NDArray[np.float64]
    patches: NDArray[np.float64]
    question: NDArray[np.float64]
    tokens: tuple[str, ...]

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K, 4): what text rows, vision rows, patches and question have of the attention."""
        patches = self.patches.reshape(len(self.layers), -1)
        return np.stack([part.sum(1) for part in (self.text, self.vision, patches, self.question)], axis=1)


@torch.inference_mode()
def look_at(backbone: LlavaBackbone, bundle: Bundle, example: Example, *, layers: int) -> Look:
    """The attention under a bundle's prompts in the last `layers` layers.

    The example has a picture. The model computes its attention openly ("eager") from here on.
    """
    assert example.picture is not None
    deep = DeepPrompts.of_bundle(bundle, backbone.device)
    backbone.model.set_attn_implementation("eager")
    inputs = backbone.process([example.picture])
    features = backbone.image_features(inputs, deep)
    prompt = backbone.encode_example(example, bundle.manifest.usage).prompt
    batch = backbone.collate([Encoded(prompt, ())], features)
    numbers = tuple(range(backbone.text_shape[0]))[-layers:]
    with _weights_of(backbone, numbers) as found:
        backbone.hidden_states(backbone.embed(batch, features), deep)
    whole = torch.stack([found[number] for number in numbers]).double().cpu()
    own, rest = whole[:, : deep.text_length], whole[:, deep.text_length :]
    image = batch.image[0].cpu()
    tower = backbone.config.vision_config
    side = tower.image_size // tower.patch_size
    rows = rest[:, image]
    tokenizer = backbone.processor.tokenizer
    return Look(
        seen=_as_seen(backbone, inputs),
        layers=numbers,
        text=own.numpy(),
        vision=rows[:, : -side * side].numpy(),
        patches=rows[:, -side * side :].reshape(-1, side, side).numpy(),
        question=rest[:, ~image].numpy(),
        tokens=tuple(
            tokenizer.decode([token]) for token in batch.ids[0][batch.image.logical_not()[0]].tolist()
        ),
    )


@contextmanager
def _weights_of(backbone: LlavaBackbone, numbers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While open, a pass leaves each layer's weights (rows,) of the last query, the mean over heads."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            found[number] = output[1][0, :, -1].float().mean(0)

        return hook

    hooks = [backbone.decoder.layers[n].self_attn.register_forward_hook(keep(n)) for n in numbers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _as_seen(backbone: LlavaBackbone, inputs: PictureInputs) -> Image.Image:
    """The picture resized and cropped by the processor, in its colours again."""
    processor = backbone.processor.image_processor
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std)
    )
    levels = (inputs.pixels[0].float().cpu() * std + mean).clamp(0, 1) * 255
    return Image.fromarray(levels.round().byte().permute(1, 2, 0).numpy())
