"""A frozen LLaVA-layout model with learned prompts put where the server puts them.

Text prompts (L, P_t, d) stand before the first token: at the input of decoder layer l the rows 0..P_t-1 are
overwritten with prompts[l]. Vision prompts (L_v, P_v, d_v) stand before the class row after the embedding
LayerNorm and are overwritten at every encoder layer alike. At a layer without prompts of its own the rows go
on as the layer before left them; where layer 0 has none they enter as zeros. Image features are read from
`vision_feature_layer`; with the "default" selection row 0 is dropped from what was read, which in mode
`released` is a prompt row (so P_v rows more reach the language model) and in mode `paper` the class row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from prompts.deep import image_tokens, xavier_rms
from prompts.errors import ConfigError
from prompts.faults import fault, shown
from prompts.manifest import VisionSpec
from training.backbone.deep import NO_PROMPTS, DeepPrompts
from training.backbone.frozen import Backbone, Features
from training.backbone.opening import rows_alike, worth_sharing
from training.backbone.pictures import PictureInputs
from training.chat import TokenBatch
from training.preflight import checkpoint_faults

__all__ = ["LlavaBackbone"]


class LlavaBackbone(Backbone):
    """Frozen `LlavaForConditionalGeneration` with its processor; any CLIP or SigLIP tower, any projector.

    `is_shared`: its decoder layers are shared out over processes, see `training.backbone.sharding`.
    `is_checkpointed`: they keep their inputs alone, see `checkpoint_layers`.
    """

    is_shared = is_checkpointed = False

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        share: Callable[[Any, torch.device], None] | None = None,
    ) -> Self:
        """Load a checkpoint folder, frozen, in evaluation mode; `share` makes it one of several processes'.

        Raises:
            ConfigError: the folder is missing or holds no LLaVA-layout checkpoint.
        """
        faults = checkpoint_faults("model", folder, "llava")
        if faults:
            raise ConfigError("model", faults)
        backbone = super().load(folder, dtype=dtype, device=device, share=share)
        backbone.is_shared = share is not None
        return backbone

    def check_asked_alike(self) -> None:
        """Its tests hold this layout against transformers; nothing is asked at each start."""

    @classmethod
    def _model_class(cls) -> Any:
        from transformers import LlavaForConditionalGeneration

        return LlavaForConditionalGeneration

    def checkpoint_layers(self) -> None:
        """From now on layers keep their inputs alone for the way back, and are computed again there.

        Half more arithmetic (one pass beside one there and one back) and a fraction of the memory; losses and
        gradients stay as they are. Prompts are put in outside of what is computed again.
        """
        for layer in (*self._tower.encoder.layers, *self.decoder.layers):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        self.is_checkpointed = True

    @property
    def projector(self) -> nn.Module:
        """The module between tower and language model."""
        module: nn.Module = self.model.model.multi_modal_projector
        return module

    @property
    def head_weight(self) -> Tensor:
        """Weight (vocabulary, d) of the output layer, often the embedding itself."""
        weight: Tensor = self.head.get_parameter("weight")
        return weight

    @property
    def text_shape(self) -> tuple[int, int]:
        """(decoder layers, hidden size)."""
        return self.config.text_config.num_hidden_layers, self.config.text_config.hidden_size

    @property
    def vision_shape(self) -> tuple[int, int]:
        """(encoder layers, hidden size)."""
        return self.config.vision_config.num_hidden_layers, self.config.vision_config.hidden_size

    @cached_property
    def _tower(self) -> Any:
        tower = self.model.model.vision_tower
        return getattr(tower, "vision_model", tower)

    @property
    def picture_comes_first(self) -> bool:
        """LLaVA's text has a mark."""
        return False

    def image_rows(self, vision: VisionSpec | None = None) -> int:
        """Rows that one picture takes in the language model's input, with these vision prompts."""
        return image_tokens(self._plain_image_rows, vision)

    @cached_property
    def _plain_image_rows(self) -> int:
        with torch.inference_mode():
            blank = self.process([Image.new("RGB", (64, 64))])
            return self.vision_states(blank.pixels).shape[1]

    def image_features(self, inputs: PictureInputs, deep: DeepPrompts = NO_PROMPTS) -> Features:
        """Processed pictures (B, 3, h, w) through tower and projector: B · N rows.

        N is the number of patches kept, plus P_v in mode `released`.
        """
        rows = self.project(self.vision_states(inputs.pixels, deep), deep)
        ids = (self.chat.image_token_id,) * rows.shape[1]
        return Features(rows.flatten(0, 1), (ids,) * len(rows), constant=self._constant_rows(deep))

    def vision_states(self, pixels: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Selected tower states before the projector, (B, N, d_v · number of feature layers)."""
        hidden = self._embed_pixels(pixels)
        length = 0 if deep.vision is None else deep.vision.shape[1]
        places = _places(deep.vision, deep.vision_at, self.vision_shape[0])
        if deep.vision is not None:
            hidden = torch.cat([_first_rows(deep.vision, places, hidden), hidden], dim=1)
        wanted = self._feature_layers()
        states = {}
        for index, layer in enumerate(self._tower.encoder.layers):
            if deep.vision is not None and index in places:
                own = _rows(deep.vision[places[index]], hidden)
                hidden = torch.cat([own, hidden[:, length:]], dim=1)
            states[index] = hidden
            if index == max(wanted):
                break
            hidden = layer(hidden, None)
        else:
            states[len(states)] = hidden
        drop = length if deep.vision_mode == "paper" else 0
        drop += self.config.vision_feature_select_strategy == "default"
        return torch.cat([states[index][:, drop:] for index in wanted], dim=-1)

    def _constant_rows(self, deep: DeepPrompts) -> int:
        """How many of a picture's first rows are prompts that no layer has touched: the same for all."""
        if deep.vision is None or deep.vision_mode == "paper":
            return 0
        places = _places(deep.vision, deep.vision_at, self.vision_shape[0])
        if any(layer not in places for layer in self._feature_layers()):
            return 0
        return deep.vision.shape[1] - (self.config.vision_feature_select_strategy == "default")

    def project(self, states: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Tower states (B, N, d_v) through the projector, the bundle's where it has one: (B, N, d)."""
        if deep.projector is None:
            projected: Tensor = self.projector(states)
            return projected
        override = {name: tensor.to(self.dtype) for name, tensor in deep.projector.items()}
        tuned: Tensor = functional_call(self.projector, override, (states,))
        return tuned

    def logits(
        self,
        batch: TokenBatch,
        features: Features | None,
        keep: Tensor,
        *,
        deep: DeepPrompts = NO_PROMPTS,
        cache: Any = None,
    ) -> Tensor:
        """Logits (rows kept, vocabulary) of the tokens that follow the positions kept; see the base class.

        The cache is filled with keys and values of the P_t rows before the batch's, too.
        """
        rows = self.embed(batch, features)
        if cache is None and not (self.is_shared or self.is_checkpointed):
            alike = rows_alike(batch, keep, constant=0 if features is None else features.constant)
            if worth_sharing(len(rows), deep.text_length + alike):
                return self.read_out(self._hidden_after(rows, alike, deep)[keep[:, alike:]], deep)
        return self.read_out(self.hidden_states(rows, deep, cache)[keep], deep)

    def read_out(self, hidden: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Logits (…, vocabulary) of final hidden states (…, d), by the bundle's output layer, if any."""
        if deep.lm_head is None:
            return super().read_out(hidden)
        return F.linear(hidden, deep.lm_head.to(hidden.dtype))

    def embed(self, batch: TokenBatch, features: Features | None) -> Tensor:
        """Input rows (B, T, d): token embeddings, with image features in their places."""
        rows = self._embed(batch.ids)
        if features is None:
            return rows
        return rows.masked_scatter(batch.image[..., None], features.rows.to(rows.dtype))

    def hidden_states(self, rows: Tensor, deep: DeepPrompts = NO_PROMPTS, cache: Any = None) -> Tensor:
        """Final hidden states (B, T, d) of right-padded input rows (B, T, d), prompt rows left out.

        A cache given is filled with keys and values of P_t + T rows.
        """
        if self.is_shared and torch.is_grad_enabled() and not rows.requires_grad:
            rows = rows.detach().requires_grad_()  # all processes go all the way back, or some would wait
        places = _places(deep.text, deep.text_at, self.text_shape[0])
        with self._text_prompts(deep.text, places) as length:
            if deep.text is not None:
                rows = torch.cat([_first_rows(deep.text, places, rows), rows], dim=1)
            output = self.decoder(inputs_embeds=rows, past_key_values=cache, use_cache=cache is not None)
        hidden: Tensor = output.last_hidden_state[:, length:]
        return hidden

    def _hidden_after(self, rows: Tensor, alike: int, deep: DeepPrompts) -> Tensor:
        """Final hidden states (B, T - alike, d) of rows (B, T, d), of which all examples begin with `alike`.

        Prompts and these rows are computed once; the others find their keys and values.
        """
        cache = DynamicCache(config=self.config.text_config)
        self.hidden_states(rows[:1, :alike], deep, cache)
        cache.batch_repeat_interleave(len(rows))
        output = self.decoder(inputs_embeds=rows[:, alike:], past_key_values=cache, use_cache=True)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def text_prompts_of(self, text: str, length: int) -> Tensor:
        """Text prompts that act as if `text` stood before the conversation: (L, P_t, d) float32.

        They are the inputs of each decoder layer for the text's tokens. The norm before attention makes a
        row's own length nearly meaningless (its epsilon counts a little), so every row gets that of a xavier
        row: one learning rate then fits all layers and both kinds of first values.

        Raises:
            ConfigError: the text has another number of tokens, or an image token.
        """
        ids = self.chat.plain_ids(text)
        if len(ids) != length:
            expected, cure = f"{len(ids)}, the tokens of init_text", f"set text_length: {len(ids)}"
            raise ConfigError(
                "train", [fault("m2pt.text_length", expected=expected, came=str(length), cure=cure)]
            )
        if self.chat.image_token_id in ids:
            expected, cure = "a text without the image token", "take it out"
            raise ConfigError(
                "train", [fault("m2pt.init_text", expected=expected, came=shown(text), cure=cure)]
            )
        return self._prompts_of_ids(ids)

    def text_prompts_of_vocabulary(self, length: int, generator: Generator) -> Tensor:
        """Text prompts that act as if random tokens stood before the conversation: (L, P_t, d) float32.

        At layer 0 they are rows of the embedding ("sampled vocabulary", Lester et al. 2021), at the others
        the inputs that these tokens, read in their order, have there. Special tokens are not drawn.
        """
        tokenizer = self.processor.tokenizer
        special = {self.chat.image_token_id, *tokenizer.all_special_ids}
        ids = torch.tensor(sorted(set(range(len(tokenizer))) - special))
        drawn = torch.randint(len(ids), (length,), generator=generator)
        return self._prompts_of_ids(ids[drawn].tolist())

    def _prompts_of_ids(self, ids: Sequence[int]) -> Tensor:
        """The inputs of each decoder layer for these tokens, every row as long as a xavier row."""
        tokens = torch.tensor([list(ids)], device=self.device)
        with torch.no_grad():
            output = self.decoder(input_ids=tokens, use_cache=False, output_hidden_states=True)
        states = torch.cat(output.hidden_states[: self.text_shape[0]]).float()
        rms = states.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(states.dtype).tiny)
        return states * xavier_rms(len(ids), states.shape[-1]) / rms

    @contextmanager
    def _text_prompts(self, prompts: Tensor | None, places: Mapping[int, int]) -> Iterator[int]:
        """While open, the first P_t input rows of the layers in `places` are their prompts; yields P_t."""
        if prompts is None:
            yield 0
            return
        length = prompts.shape[1]

        def overwrite(place: int) -> Any:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                hidden = torch.cat([_rows(prompts[place], args[0]), args[0][:, length:]], dim=1)
                return (hidden, *args[1:])

            return hook

        hooks = [
            layer.register_forward_pre_hook(overwrite(places[index]))
            for index, layer in enumerate(self.decoder.layers)
            if index > 0 and index in places
        ]
        try:
            yield length
        finally:
            for hook in hooks:
                hook.remove()

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self._tower.embeddings(pixels.to(self.device, self.dtype))
        norm = getattr(self._tower, "pre_layrnorm", None)
        return hidden if norm is None else norm(hidden)

    def _feature_layers(self) -> list[int]:
        """State numbers to read: k < L_v is the input of layer k, L_v the output of the last."""
        layer = self.config.vision_feature_layer
        states = self.vision_shape[0] + 1
        return [number % states for number in ([layer] if isinstance(layer, int) else layer)]


def _places(prompts: Tensor | None, at: Sequence[int] | None, layers: int) -> dict[int, int]:
    """Which group of `prompts` each layer takes: layer -> place; {} without prompts."""
    if prompts is None:
        return {}
    return {layer: place for place, layer in enumerate(range(layers) if at is None else at)}


def _first_rows(prompts: Tensor, places: Mapping[int, int], like: Tensor) -> Tensor:
    """What the prompt rows (B, P, d) enter layer 0 as: its prompts, or zeros where it has none."""
    first = prompts[places[0]] if 0 in places else torch.zeros_like(prompts[0])
    return _rows(first, like)


def _rows(prompts: Tensor, like: Tensor) -> Tensor:
    """Prompts (P, d) as rows (B, P, d) in the dtype and on the device of `like` (B, …)."""
    return prompts.to(like.device, like.dtype).expand(like.shape[0], -1, -1)
