"""A frozen LLaVA-layout model with learned prompts put where the server puts them.

Text prompts (L, P_t, d) stand before the first token: at the input of decoder layer l the rows 0..P_t-1 are
overwritten with prompts[l]. Vision prompts (L_v, P_v, d_v) stand before the class row after the embedding
LayerNorm and are overwritten at every encoder layer alike. Image features are read from
`vision_feature_layer`; with the "default" selection row 0 is dropped from what was read, which in mode
`released` is a prompt row (so P_v rows more reach the language model) and in mode `paper` the class row.

No weight has a gradient: it flows to prompts, projector overrides and pixels only. Batches are padded on the
right and attention is causal, so no padding mask is needed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from prompts.bundle import Bundle
from prompts.deep import image_tokens, xavier_rms
from prompts.errors import ConfigError, UnsupportedError
from prompts.faults import fault, shown
from prompts.manifest import Usage, VisionSpec
from training.chat import ChatEncoder, Encoded, TokenBatch
from training.choices import ChoiceMask
from training.data import Example
from training.pixels import PixelPipeline
from training.preflight import checkpoint_faults

__all__ = ["NO_PROMPTS", "DeepPrompts", "LlavaBackbone", "choose_device", "choose_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class DeepPrompts:
    """Learned tensors inside the model; None means the model's own behaviour.

    Attributes:
        text: (L, P_t, d), one group of rows per decoder layer.
        vision: (L_v, P_v, d_v), one group of rows per encoder layer.
        projector: parameters of the multimodal projector by name, in place of the model's.
    """

    text: Tensor | None = None
    vision: Tensor | None = None
    vision_mode: Literal["released", "paper"] = "released"
    projector: Mapping[str, Tensor] | None = None

    @classmethod
    def of_bundle(cls, bundle: Bundle, device: torch.device) -> "DeepPrompts":
        """The deep tensors of a bundle (its frame works on pixels and is not among them).

        Raises:
            UnsupportedError: the bundle has an output layer of its own, a prefix, or prompts at some layers
                alone.
        """
        for part, spec in (("text", bundle.manifest.text), ("vision", bundle.manifest.vision)):
            if spec is not None and len(spec.layer_indices) < spec.layers:
                cure = "prompts at some layers are served, but not measured yet"
                came = str(list(spec.layer_indices))
                raise UnsupportedError(fault(f"{part}.at", expected="all layers", came=came, cure=cure))
        if bundle.manifest.prefix is not None:
            cure = "a prefix of keys and values is served, but not measured yet"
            raise UnsupportedError(fault("prefix", expected="null", came="a prefix", cure=cure))
        if bundle.manifest.lm_head:
            cure = "an lm_head per task is served, but not measured yet"
            raise UnsupportedError(fault("lm_head", expected="false", came="true", cure=cure))
        projector = {name: tensor.to(device) for name, tensor in bundle.projector_state().items()}
        vision = bundle.manifest.vision
        return cls(
            text=None if bundle.text_prompts is None else bundle.text_prompts.to(device),
            vision=None if bundle.vision_prompts is None else bundle.vision_prompts.to(device),
            vision_mode="released" if vision is None else vision.mode,
            projector=projector or None,
        )

    @property
    def text_length(self) -> int:
        """P_t, rows before the first token."""
        return 0 if self.text is None else self.text.shape[1]


NO_PROMPTS = DeepPrompts()


class LlavaBackbone:
    """Frozen `LlavaForConditionalGeneration` with its processor; any CLIP or SigLIP tower, any projector."""

    def __init__(self, model: Any, processor: Any, *, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.processor = processor
        self.config = model.config
        self.dtype: torch.dtype = model.lm_head.weight.dtype
        self._masks: dict[tuple[str, ...], ChoiceMask] = {}
        self.pixels = PixelPipeline.of_processor(processor.image_processor)
        self.stop_ids = _stop_ids(model, processor)
        self.chat = ChatEncoder(
            processor, image_token_id=self.config.image_token_id, end_token_id=self.stop_ids[0]
        )

    @classmethod
    def load(cls, folder: Path, *, dtype: str = "auto", device: str = "auto") -> "LlavaBackbone":
        """Load a checkpoint folder, frozen, in evaluation mode.

        Raises:
            ConfigError: the folder is missing or holds no LLaVA-layout checkpoint.
        """
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        faults = checkpoint_faults("model", folder, "llava")
        if faults:
            raise ConfigError("model", faults)
        place = choose_device(device)
        # At a question's length eager attention's backward pass is the faster one on a CPU (measured: 0.8).
        attention = "eager" if place.type == "cpu" else "sdpa"
        try:
            model = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=choose_dtype(dtype, place), attn_implementation=attention
            )
            processor = AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            came, cure = f"{folder}: {str(error).partition(chr(10))[0]}", "download it whole"
            problem = fault("model", expected="weights and a processor", came=came, cure=cure)
            raise ConfigError("model", [problem]) from error
        return cls(model, processor, device=place)

    @property
    def projector(self) -> nn.Module:
        """The module between tower and language model."""
        module: nn.Module = self.model.model.multi_modal_projector
        return module

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

    @cached_property
    def _decoder(self) -> Any:
        return self.model.model.language_model

    def image_rows(self, vision: VisionSpec | None = None) -> int:
        """Rows that one picture takes in the language model's input, with these vision prompts."""
        return image_tokens(self._plain_image_rows, vision)

    @cached_property
    def _plain_image_rows(self) -> int:
        with torch.inference_mode():
            blank = self.process([Image.new("RGB", (64, 64))])
            return self.vision_states(blank).shape[1]

    def encode_example(self, example: Example, usage: Usage, *, over_choices: bool = False) -> Encoded:
        """Question and answer of an example as token ids, rendered as the server renders them.

        `over_choices`: the answer competes with what else `usage.choices` lets the server write.

        Raises:
            ConfigError: a text spells out the image token, the chat template refuses the usage, or the answer
                is none of the choices.
        """
        picture = example.picture is not None
        rendered = self.chat.render(example.question, picture=picture, usage=usage)
        encoded = self.chat.encode(rendered, example.answer, bare=usage.choices is not None)
        self.chat.check_pictures(encoded, picture=picture)
        if over_choices:
            allowed = self.choice_mask(usage.choices or ()).allowed(encoded.answer)
            encoded = replace(encoded, allowed=allowed)
        return encoded

    def encode_answer(self, example: Example, choice: str, usage: Usage) -> tuple[int, ...]:
        """A candidate answer's token ids, without an end token: a name is ranked by its own tokens."""
        rendered = self.chat.render(example.question, picture=example.picture is not None, usage=usage)
        return self.chat.encode(rendered, choice, end=False, bare=usage.choices is not None).answer

    def choice_mask(self, choices: tuple[str, ...]) -> ChoiceMask:
        """What structured output lets through for these choices; made once."""
        if choices not in self._masks:
            self._masks[choices] = ChoiceMask(self.processor.tokenizer, choices)
        return self._masks[choices]

    def process(self, pictures: list[Image.Image]) -> Tensor:
        """Pictures through the checkpoint's own image processor, as a plain request's: (B, 3, h, w) f32."""
        pixels: Tensor = self.processor.image_processor(
            [picture.convert("RGB") for picture in pictures], return_tensors="pt"
        )["pixel_values"]
        return pixels

    def image_features(self, pixels: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Normalised pixels (B, 3, h, w) to the rows the language model reads, (B, N, d).

        N is the number of patches kept, plus P_v in mode `released`.
        """
        return self.project(self.vision_states(pixels, deep), deep)

    def vision_states(self, pixels: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Selected tower states before the projector, (B, N, d_v · number of feature layers)."""
        hidden = self._embed_pixels(pixels)
        length = 0 if deep.vision is None else deep.vision.shape[1]
        if deep.vision is not None:
            hidden = torch.cat([_rows(deep.vision[0], hidden), hidden], dim=1)
        wanted = self._feature_layers()
        states = {}
        for index, layer in enumerate(self._tower.encoder.layers):
            if deep.vision is not None:
                hidden = torch.cat([_rows(deep.vision[index], hidden), hidden[:, length:]], dim=1)
            states[index] = hidden
            if index == max(wanted):
                break
            hidden = layer(hidden, None)
        else:
            states[len(states)] = hidden
        drop = length if deep.vision_mode == "paper" else 0
        drop += self.config.vision_feature_select_strategy == "default"
        return torch.cat([states[index][:, drop:] for index in wanted], dim=-1)

    def project(self, states: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Tower states (B, N, d_v) through the projector, the bundle's where it has one: (B, N, d)."""
        if deep.projector is None:
            projected: Tensor = self.projector(states)
            return projected
        override = {name: tensor.to(self.dtype) for name, tensor in deep.projector.items()}
        tuned: Tensor = functional_call(self.projector, override, (states,))
        return tuned

    def embed(self, batch: TokenBatch, features: Tensor | None) -> Tensor:
        """Input rows (B, T, d): token embeddings, with image features (pictures, N, d) in their places."""
        rows: Tensor = self._decoder.embed_tokens(batch.ids)
        if features is None:
            return rows
        return rows.masked_scatter(batch.image[..., None], features.to(rows.dtype))

    def hidden_states(self, rows: Tensor, deep: DeepPrompts = NO_PROMPTS, cache: Any = None) -> Tensor:
        """Final hidden states (B, T, d) of right-padded input rows (B, T, d), prompt rows left out.

        A cache given is filled with keys and values of P_t + T rows.
        """
        with self._text_prompts(deep.text) as length:
            if deep.text is not None:
                rows = torch.cat([_rows(deep.text[0], rows), rows], dim=1)
            output = self._decoder(inputs_embeds=rows, past_key_values=cache, use_cache=cache is not None)
        hidden: Tensor = output.last_hidden_state[:, length:]
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
        tokens = torch.tensor([ids], device=self.device)
        with torch.no_grad():
            output = self._decoder(input_ids=tokens, use_cache=False, output_hidden_states=True)
        states = torch.cat(output.hidden_states[: self.text_shape[0]]).float()
        rms = states.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(states.dtype).tiny)
        return states * xavier_rms(length, states.shape[-1]) / rms

    def continue_from(self, cache: Any, tokens: Tensor, *, seen: Tensor, positions: Tensor) -> Tensor:
        """Hidden states (B, S, d) of tokens (B, S) that follow a cache, which grows by them.

        Args:
            seen: (B, cached + S), 1 on the rows to attend to (padding in the cache is 0).
            positions: (B, S), rotary position of each token.
        """
        output = self._decoder(
            inputs_embeds=self._decoder.embed_tokens(tokens),
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def answer_loss(
        self, batch: TokenBatch, features: Tensor | None, deep: DeepPrompts = NO_PROMPTS
    ) -> Tensor:
        """Mean cross-entropy over the answer tokens of the batch; a float32 scalar.

        With `batch.allowed` a token competes with those that may stand in its place alone, as in an answer
        that the server holds to its choices; tokens without a rival do not count.
        """
        hidden = self.hidden_states(self.embed(batch, features), deep)
        logits = self.model.lm_head(hidden[:, :-1][batch.answer[:, 1:]]).float()
        if batch.allowed is None:
            return F.cross_entropy(logits, batch.ids[batch.answer])
        open_places = (batch.allowed >= 0).sum(1) > 1
        allowed = batch.allowed[open_places]
        rivals = logits[open_places].gather(1, allowed.clamp(min=0)).masked_fill(allowed < 0, -torch.inf)
        total = F.cross_entropy(rivals, torch.zeros_like(allowed[:, 0]), reduction="sum")
        return total / max(1, len(rivals))

    @contextmanager
    def _text_prompts(self, prompts: Tensor | None) -> Iterator[int]:
        """While open, each decoder layer's first P_t input rows are its prompts; yields P_t."""
        if prompts is None:
            yield 0
            return
        length = prompts.shape[1]

        def overwrite(index: int) -> Any:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                hidden = torch.cat([_rows(prompts[index], args[0]), args[0][:, length:]], dim=1)
                return (hidden, *args[1:])

            return hook

        hooks = [
            layer.register_forward_pre_hook(overwrite(index))
            for index, layer in enumerate(self._decoder.layers)
            if index > 0
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


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the machine computes in it, float32 elsewhere."""
    if name != "auto":
        return DTYPES[name]
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _rows(prompts: Tensor, like: Tensor) -> Tensor:
    """Prompts (P, d) as rows (B, P, d) in the dtype and on the device of `like` (B, …)."""
    return prompts.to(like.device, like.dtype).expand(like.shape[0], -1, -1)


def _stop_ids(model: Any, processor: Any) -> list[int]:
    """Ids that end an answer; the tokenizer's own, which chat models end a turn with, comes first."""
    named = [processor.tokenizer.eos_token_id]
    more = model.generation_config.eos_token_id
    named += more if isinstance(more, list) else [more]
    stop = list(dict.fromkeys(int(token) for token in named if token is not None))
    if not stop:
        expected, cure = "one in the tokenizer or generation config", "add it there"
        raise ConfigError("model", [fault("eos_token_id", expected=expected, came="none", cure=cure)])
    return stop
