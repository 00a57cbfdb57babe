"""pico-idefics: Idefics3's layout, SmolVLM's too. A SigLIP tower, a pixel shuffle, one linear layer."""

from pathlib import Path

from PIL import Image
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    Idefics3VisionConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3VisionTransformer

from training.pico.language_model import (
    IMAGE_TOKEN,
    chat_template,
    language_model,
    language_tokenizer,
    padded_vocabulary,
)
from training.pico.members.member import Eyes, Member, Seen, projector_state, save_beside

__all__ = ["PicoIdefics"]

_FAKE = "<fake_token_around_image>"
_GLOBAL = "<global-img>"
_SIDE = 240
_SHUFFLE = 2


class _IdeficsEyes(Eyes):
    side = _SIDE
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    width = 192

    def see(self, pixels: Tensor) -> Seen:
        return Seen(self.tower(pixels).last_hidden_state)


class PicoIdefics(Member):
    """240 px, 24 px patches (10 × 10), 6 layers of 192; 2 × 2 patches become one of 25 rows."""

    name = "pico-idefics"
    architecture = "Idefics3ForConditionalGeneration"
    seed = 3
    around_picture = (_FAKE + _GLOBAL, _FAKE)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return language_tokenizer(chat_template(), _FAKE, "<end_of_utterance>", _GLOBAL)

    @property
    def config(self) -> Idefics3Config:
        """The checkpoint's config."""
        text = language_model().config
        text.vocab_size = padded_vocabulary(self.tokenizer)
        return Idefics3Config(
            vision_config=Idefics3VisionConfig(
                hidden_size=192,
                intermediate_size=768,
                num_hidden_layers=6,
                num_attention_heads=3,
                image_size=_SIDE,
                patch_size=24,
            ).to_dict(),
            text_config=text.to_dict(),
            image_token_id=self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            scale_factor=_SHUFFLE,
            tie_word_embeddings=True,
            pad_token_id=self.tokenizer.pad_token_id,
            architectures=[self.architecture],
            dtype="bfloat16",
        )

    def make_eyes(self) -> Eyes:
        config = self.config
        config.vision_config._attn_implementation = "eager"  # faster than sdpa at 100 tokens on a CPU
        return _IdeficsEyes(Idefics3VisionTransformer(config.vision_config), Idefics3Connector(config))

    def write(self, folder: Path, tower: dict[str, Tensor], taught: dict[str, Tensor]) -> None:
        language = self.language(taught)
        model = Idefics3ForConditionalGeneration(self.config).to(language.dtype)
        model.model.text_model.load_state_dict(language.model.state_dict())
        model.model.vision_model.load_state_dict(tower)
        model.model.connector.load_state_dict(projector_state(taught))
        model.save_pretrained(folder)
        patches = (_SIDE // model.config.vision_config.patch_size) ** 2
        Idefics3Processor(
            # The longest side is one tile, so a picture is never split.
            Idefics3ImageProcessor(
                size={"longest_edge": _SIDE},
                max_image_size={"longest_edge": _SIDE},
                resample=Image.Resampling.BICUBIC,
            ),
            self.tokenizer,
            image_seq_len=patches // _SHUFFLE**2,
            chat_template=chat_template(),
        ).save_pretrained(folder)
        save_beside(folder, self.tokenizer)
