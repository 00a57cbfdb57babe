"""What is served and asked: the embedded model, random tasks and adapters of its shape, random traffic.

Random tasks cost what trained ones of the same sizes do; what they answer means nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from benchmarks.jobs import Request
from prompts.bundle import save_bundle
from prompts.deep import xavier_prompts
from prompts.fingerprint import base_model_ref
from prompts.manifest import BaseModelRef, Manifest, TextSpec, VisionSpec

__all__ = ["M2PT_LENGTHS", "Shapes", "find_model", "make_picture", "make_requests", "make_tasks"]

M2PT_LENGTHS = (10, 20)
"""The paper's lengths of text and vision prompts."""
_PROJECTOR = "multi_modal_projector."


def find_model(given: Path | None, say: Callable[[str], None]) -> Path:
    """The checkpoint to measure: the one given, else pico-llava, built first where it is not yet (20 s)."""
    if given is not None:
        return given
    from training.paths import model_folder
    from training.pico.build import build_model, is_current

    folder = model_folder("pico-llava")
    if not is_current("pico-llava", folder):
        say(f"building pico-llava in {folder}")
        build_model("pico-llava", folder)
    return folder


class Shapes:
    """What a bundle for a LLaVA-layout checkpoint must know of it.

    `text`, `vision`: (layers, width); `projector`: parameter -> shape; `image_token`: a picture's place;
    `ordinary_tokens`: first and past-last id of a run of ids that are words.
    """

    def __init__(self, model: Path) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(model)
        self.config = config.text_config
        self.text = (config.text_config.num_hidden_layers, config.text_config.hidden_size)
        self.vision = (config.vision_config.num_hidden_layers, config.vision_config.hidden_size)
        self.image_token: int = config.image_token_id
        self.ordinary_tokens = _ordinary_tokens(self.image_token, config.text_config.vocab_size)
        self.projector: dict[str, tuple[int, ...]] = {}
        for file in sorted(model.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    _, found, rest = name.rpartition(_PROJECTOR)
                    if found:
                        self.projector[rest] = tuple(opened.get_slice(name).get_shape())


def _ordinary_tokens(image_token: int, vocabulary: int) -> tuple[int, int]:
    """The longer of the two runs of ids beside the image token; special tokens stand first."""
    first = min(100, vocabulary // 4)
    return (
        (first, image_token) if image_token > vocabulary // 2 else (max(first, image_token + 1), vocabulary)
    )


def make_tasks(
    model: Path,
    folder: Path,
    count: int,
    *,
    lengths: tuple[int, int] = M2PT_LENGTHS,
    projector: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Saves `count` random M²PT bundles for `model` under `folder`, each of another digest.

    `lengths`: (P_t, P_v), the text and the vision prompt's. `projector`: each brings one of its own, as M²PT
    trains it.
    """
    shapes, base = Shapes(model), base_model_ref(model)
    made = []
    for number in range(count):
        made.append(_make_task(folder / f"task-{number:04}", shapes, base, number, lengths, projector))
        if say is not None and (number + 1) % 100 == 0:
            say(f"{number + 1} of {count} bundles written")
    return made


def _make_task(
    folder: Path,
    shapes: Shapes,
    base: BaseModelRef,
    seed: int,
    lengths: tuple[int, int],
    projector: bool,
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    (layers, width), (vision_layers, vision_width) = shapes.text, shapes.vision
    length, vision_length = lengths
    tensors: dict[str, Tensor] = {"text.prompts": xavier_prompts(layers, length, width, generator)}
    vision = None
    if vision_length:
        tensors["vision.prompts"] = xavier_prompts(vision_layers, vision_length, vision_width, generator)
        vision = VisionSpec(layers=vision_layers, length=vision_length, hidden=vision_width, mode="released")
    if projector:
        tensors |= {
            f"projector.{name}": torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            for name, shape in shapes.projector.items()
        }
    manifest = Manifest(
        name=folder.name,
        version="1",
        base_model=base,
        text=TextSpec(layers=layers, length=length, hidden=width),
        vision=vision,
        projector=projector,
    )
    save_bundle(folder, manifest, tensors)
    return folder


def make_picture(generator: np.random.Generator, side: int = 224) -> Image.Image:
    """A picture of noise, which no cache has seen."""
    return Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))


def make_requests(
    shapes: Shapes,
    *,
    round_number: int,
    count: int,
    text_tokens: int,
    tasks: Sequence[int | None] = (None,),
    extra: int = 0,
) -> tuple[Request, ...]:
    """`count` requests of one picture and `text_tokens` random tokens; the same for the same round.

    `tasks` are given out in turn. `extra` ordinary tokens stand in front, always the same ones for the same
    place in the batch, as a task's prompt rows are always the same ones.
    """
    generator = np.random.default_rng([1, round_number + 1000])
    requests = []
    for place in range(count):
        front = np.random.default_rng([2, place]).integers(*shapes.ordinary_tokens, extra).tolist()
        words = generator.integers(*shapes.ordinary_tokens, text_tokens).tolist()
        prompt = (*front, shapes.image_token, *words)
        picture = make_picture(generator)
        requests.append(Request(prompt=prompt, pictures=(picture,), task=tasks[place % len(tasks)]))
    return tuple(requests)
