"""pico-blip2: BLIP-2's layout. A ViT, a Q-Former whose queries look for what to say, one linear layer."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    BlipImageProcessor,
    PreTrainedTokenizerBase,
)

from training.pico.language_model import (
    IMAGE_TOKEN,
    WIDTH,
    chat_template,
    language_model,
    language_tokenizer,
    padded_vocabulary,
)
from training.pico.members.member import CLIP_MEAN, CLIP_STD, Eyes, Member, Seen, projector_state, save_beside

__all__ = ["PicoBlip2", "QFormer"]

_SIDE = 216
_QUERIES = 16
_VISION_WIDTH = 192


class QFormer(nn.Module):
    """Learned queries through a Q-Former and a linear layer, by their names in a checkpoint.

    (B, P, 192) to (B, 16, 576), however many patches there are.
    """

    def __init__(self, config: Blip2QFormerConfig) -> None:
        super().__init__()
        # Not zero as in transformers: queries that are alike stay alike.
        self.query_tokens = nn.Parameter(0.5 * torch.randn(1, _QUERIES, config.hidden_size))
        self.qformer = Blip2QFormerModel(config)
        self.language_projection = nn.Linear(config.hidden_size, WIDTH)

    def forward(self, patches: Tensor) -> Tensor:
        queries = self.query_tokens.expand(len(patches), -1, -1)
        asked = self.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
        return self.language_projection(asked)


class _Blip2Eyes(Eyes):
    side = _SIDE
    width = _VISION_WIDTH

    def see(self, pixels: Tensor) -> Seen:
        return Seen(self.tower(pixels).last_hidden_state)


class PicoBlip2(Member):
    """216 px, 24 px patches (9 × 9 and a class row), 5 layers of 192; a Q-Former of 3 layers, 16 rows.

    A prompt has no mark for the picture: its rows come before the text.
    """

    name = "pico-blip2"
    architecture = "Blip2ForConditionalGeneration"
    seed = 4
    rounds = 4

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return language_tokenizer(chat_template(picture=""))

    @property
    def config(self) -> Blip2Config:
        """The checkpoint's config."""
        text = language_model().config
        text.vocab_size = padded_vocabulary(self.tokenizer)
        return Blip2Config(
            vision_config=Blip2VisionConfig(
                hidden_size=_VISION_WIDTH,
                intermediate_size=768,
                num_hidden_layers=5,
                num_attention_heads=3,
                image_size=_SIDE,
                patch_size=24,
                initializer_range=0.02,  # transformers' 1e-10 is for weights that are loaded
            ).to_dict(),
            qformer_config=Blip2QFormerConfig(
                vocab_size=1,
                hidden_size=192,
                intermediate_size=768,
                num_hidden_layers=3,
                num_attention_heads=3,
                encoder_hidden_size=_VISION_WIDTH,
                cross_attention_frequency=1,
                max_position_embeddings=_QUERIES,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ).to_dict(),
            text_config=text.to_dict(),
            num_query_tokens=_QUERIES,
            image_token_index=self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            tie_word_embeddings=True,
            architectures=[self.architecture],
            dtype="bfloat16",
        )

    def make_eyes(self) -> Eyes:
        config = self.config
        for part in (config.vision_config, config.qformer_config):
            part._attn_implementation = "eager"
        return _Blip2Eyes(Blip2VisionModel(config.vision_config), QFormer(config.qformer_config))

    def write(self, folder: Path, tower: dict[str, Tensor], taught: dict[str, Tensor]) -> None:
        language = self.language(taught)
        model = Blip2ForConditionalGeneration(self.config).to(language.dtype)
        model.language_model.load_state_dict(language.state_dict())
        model.vision_model.load_state_dict(tower)
        missing = model.load_state_dict(projector_state(taught), strict=False)
        assert not missing.unexpected_keys, missing.unexpected_keys
        model.save_pretrained(folder)
        Blip2Processor(
            BlipImageProcessor(
                size={"height": _SIDE, "width": _SIDE}, image_mean=CLIP_MEAN, image_std=CLIP_STD
            ),
            self.tokenizer,
            num_query_tokens=_QUERIES,
        ).save_pretrained(folder)  # it keeps no chat template of its own; the tokenizer's is used
        save_beside(folder, self.tokenizer)
