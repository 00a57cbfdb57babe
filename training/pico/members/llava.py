"""pico-llava, whose tower is half of a tiny CLIP, and pico-llava-b, whose tower is coarser and wider."""

from pathlib import Path
from typing import ClassVar

import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from training.pico.clip import clip_config, clip_tokenizer, contrastive_loss
from training.pico.language_model import IMAGE_TOKEN, WIDTH, chat_template, language_tokenizer
from training.pico.members.member import CLIP_MEAN, CLIP_STD, Eyes, Member, Seen, save_beside

__all__ = ["PicoLlava", "PicoLlavaB", "Projector"]


class Projector(nn.Module):
    """LLaVA's two-layer projector, by its names in a checkpoint: (…, width) to (…, 576)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, WIDTH)
        self.linear_2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))


class _ClipEyes(Eyes):
    """Patches of layer -2; the contrast makes a CLIP of the tower, which TSE asks later."""

    width = 192

    def see(self, pixels: Tensor) -> Seen:
        seen = self.tower.vision_model(pixels, output_hidden_states=True)
        return Seen(seen.hidden_states[PicoLlava.feature_layer][:, 1:], seen.pooler_output)

    def contrast(self, seen: Seen, shown: Tensor) -> Tensor | None:
        assert seen.pooled is not None
        return contrastive_loss(self.tower, seen.pooled, shown / shown.sum(1, keepdim=True))


class _PlainEyes(Eyes):
    """Patches of the last layer."""

    width = 256

    def see(self, pixels: Tensor) -> Seen:
        return Seen(self.tower(pixels).last_hidden_state[:, 1:])


class _Llava(Member):
    architecture = "LlavaForConditionalGeneration"
    feature_layer: ClassVar[int]

    @property
    def vision_config(self) -> CLIPVisionConfig:
        raise NotImplementedError

    def vision_state(self, tower: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tower's weights by their names in a LLaVA checkpoint, `vision_model.…`."""
        raise NotImplementedError

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return language_tokenizer(chat_template())

    def write(self, folder: Path, tower: dict[str, Tensor], taught: dict[str, Tensor]) -> None:
        language, tokenizer, vision = self.language(taught), self.tokenizer, self.vision_config
        tensors = {
            f"language_model.model.{name}": tensor for name, tensor in language.model.state_dict().items()
        }
        tensors |= {f"vision_tower.{name}": tensor for name, tensor in self.vision_state(tower).items()}
        for name, tensor in taught.items():
            if name.startswith("projector."):
                tensors[name.replace("projector.", "multi_modal_projector.", 1)] = tensor
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        patches = (vision.image_size // vision.patch_size) ** 2
        LlavaConfig(
            vision_config=vision,
            text_config=language.config,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            vision_feature_layer=self.feature_layer,
            vision_feature_select_strategy="default",
            image_seq_length=patches,
            tie_word_embeddings=True,
            architectures=[self.architecture],
            dtype="bfloat16",
        ).save_pretrained(folder)
        side = vision.image_size
        pictures = CLIPImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
        )
        LlavaProcessor(
            pictures,
            tokenizer,
            patch_size=vision.patch_size,
            vision_feature_select_strategy="default",
            image_token=IMAGE_TOKEN,
            num_additional_image_tokens=1,
            chat_template=chat_template(),
        ).save_pretrained(folder)
        save_beside(folder, tokenizer)


class PicoLlava(_Llava):
    """224 px, 28 px patches (8 × 8 = 64 tokens), 6 layers of 192, read at layer -2.

    Beside its checkpoint lies `clip/`, the tiny CLIP of the same tower.
    """

    name = "pico-llava"
    seed = 1
    starts_from = None
    feature_layer = -2

    @property
    def vision_config(self) -> CLIPVisionConfig:
        return CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=3,
            image_size=224,
            patch_size=28,
            projection_dim=128,
        )

    def make_eyes(self) -> Eyes:
        eyes = _ClipEyes(CLIPModel(clip_config(self.vision_config)), Projector(192))
        eyes.tower.set_attn_implementation("eager")  # faster than sdpa at 65 tokens on a CPU
        return eyes

    def vision_state(self, tower: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tower.items() if name.startswith("vision_model.")}

    def write(self, folder: Path, tower: dict[str, Tensor], taught: dict[str, Tensor]) -> None:
        super().write(folder, tower, taught)
        clip = CLIPModel(clip_config(self.vision_config))
        clip.load_state_dict({name: tensor.float() for name, tensor in tower.items()}, strict=False)
        clip.save_pretrained(folder / "clip")
        (folder / "clip" / "model.safetensors").chmod(0o644)
        clip_tokenizer().save_pretrained(folder / "clip")
        CLIPImageProcessor(image_mean=CLIP_MEAN, image_std=CLIP_STD).save_pretrained(folder / "clip")


class PicoLlavaB(_Llava):
    """Another tower: 224 px, 32 px patches (7 × 7 = 49 tokens), 4 layers of 256, read at the last one."""

    name = "pico-llava-b"
    seed = 2
    rounds = 1
    feature_layer = -1

    @property
    def vision_config(self) -> CLIPVisionConfig:
        return CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=224,
            patch_size=32,
        )

    def make_eyes(self) -> Eyes:
        tower = CLIPVisionModel(self.vision_config)
        tower.set_attn_implementation("eager")
        return _PlainEyes(tower, Projector(256))

    def vision_state(self, tower: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"vision_model.{name}": tensor for name, tensor in tower.items()}
