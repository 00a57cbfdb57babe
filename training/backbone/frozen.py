"""Any frozen vision-language model of transformers, asked as the server asks it.

Pictures go through the checkpoint's own image processor and `get_image_features`; what comes out, the rows
that the language model reads, is handed to the model's forward pass (`mm_encoder_outputs`), so that a loss
can look at it too. No weight has a gradient: it flows to pixels and learned tensors only. Batches are padded
on the right and attention is causal, so no padding mask is needed.

Of transformers 5.19 this relies on: `get_image_features`, `mm_encoder_outputs`, `get_decoder`,
`get_output_embeddings`, and torchvision image processors.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.manifest import Usage
from training.backbone.deep import NO_PROMPTS, DeepPrompts
from training.backbone.device import choose_device, choose_dtype
from training.backbone.expansion import Expansion, probe
from training.backbone.layout import check_layout, image_token_id, stop_ids_of, unsupported
from training.backbone.pictures import PictureInputs, of_canvas, of_pictures
from training.chat import PROBE, ChatEncoder, Encoded, TokenBatch, collate
from training.choices import ChoiceMask
from training.data import Example

__all__ = ["Backbone", "Features"]

_TOKEN_TYPES = {"mm_token_type_ids", "token_type_ids"}
"""Inputs that mark a picture's tokens, by the names that models have for them."""
_PROBE_SIZE = (64, 64)
_MAX_PROBE_GAP = 1e-3


@dataclass(frozen=True)
class Features:
    """Pictures as the language model receives them.

    Attributes:
        rows: (rows of all pictures, d).
        pictures: the token ids that each picture becomes in a prompt, an image token for each of its rows.
        output: what the model's own `get_image_features` gave; None where a backbone made the rows itself.
        constant: the first so many rows of each picture are the same whatever it shows.
    """

    rows: Tensor
    pictures: tuple[tuple[int, ...], ...]
    output: Any = None
    constant: int = 0


class Backbone:
    """A frozen model with its processor."""

    def __init__(self, model: Any, processor: Any, *, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.processor = processor
        self.config = model.config
        self.head: nn.Module = model.get_output_embeddings()
        self.dtype: torch.dtype = next(self.head.parameters()).dtype
        self.stop_ids = stop_ids_of(model, processor)
        self.chat = ChatEncoder(
            processor, image_token_id=image_token_id(self.config), end_token_id=self.stop_ids[0]
        )
        self._masks: dict[tuple[str, ...], ChoiceMask] = {}
        self._expansions: dict[tuple[int, int], Expansion] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        share: Callable[[Any, torch.device], None] | None = None,
    ) -> Self:
        """Load a checkpoint folder, frozen, in evaluation mode.

        Args:
            share: what is done to the model in host memory before it goes to its device.

        Raises:
            ConfigError: the folder holds no vision-language model of transformers with its processor.
        """
        from transformers import AutoProcessor

        place = choose_device(device)
        # At a question's length eager attention's backward pass is the faster one on a CPU (measured: 0.8).
        attention = "eager" if place.type == "cpu" else "sdpa"
        try:
            model = cls._model_class().from_pretrained(
                folder, dtype=choose_dtype(dtype, place), attn_implementation=attention
            )
            processor = AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            came, cure = f"{folder}: {str(error).partition(chr(10))[0]}", "download it whole"
            problem = fault("model", expected="weights and a processor", came=came, cure=cure)
            raise ConfigError("model", [problem]) from error
        check_layout(model)
        if share is not None:
            share(model, place)
        backbone = cls(model, processor, device=place)
        backbone.check_asked_alike()
        return backbone

    @torch.inference_mode()
    def check_asked_alike(self) -> None:
        """Holds one request's logits against those of the model asked with its own processor.

        Raises:
            ConfigError: they differ, as where a layout wants an input that is not known here.
        """
        picture = Image.new("RGB", _PROBE_SIZE, (128, 128, 128))
        question = Encoded(self.encode_example(Example(picture, PROBE, ""), Usage()).prompt, ())
        features = self.image_features(self.process([picture]))
        batch = self.collate([question], features)
        last = torch.zeros_like(batch.image)
        last[:, -1] = True
        ours = self.logits(batch, features, last)[0].float()
        inputs = self.processor(
            images=[picture],
            text=[self.chat.render(PROBE, picture=True)],
            add_special_tokens=False,
            return_tensors="pt",
        )
        own = self.model(**inputs.to(self.device, self.dtype)).logits[0, -1].float()
        gap = ((ours - own).abs().max() / own.abs().max()).item()
        if not gap < _MAX_PROBE_GAP:
            expected, came = "the logits of its own processor's inputs", f"others, {gap:.2%} off"
            cure = "this layout cannot be trained on"
            raise ConfigError("model", [fault("model", expected=expected, came=came, cure=cure)])

    @classmethod
    def _model_class(cls) -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText

    @cached_property
    def decoder(self) -> Any:
        """The language model without its output layer."""
        found = self.model.get_decoder()
        while found.get_output_embeddings() is not None:  # BLIP-2 gives a language model with its head
            found = found.get_decoder()
        return found

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
        if picture and self.picture_comes_first:
            encoded = replace(encoded, prompt=(self.chat.image_token_id, *encoded.prompt))
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

    @property
    def picture_comes_first(self) -> bool:
        """Whether a picture's rows stand before the text, which has no mark for them."""
        return self._expansion(_PROBE_SIZE).first

    def _expansion(self, size: tuple[int, int]) -> Expansion:
        if size not in self._expansions:
            rendered = self.chat.render(PROBE, picture=True)
            self._expansions[size] = probe(
                self.processor, rendered, size=size, image_token_id=self.chat.image_token_id
            )
        return self._expansions[size]

    def collate(self, encoded: Sequence[Encoded], features: Features | None) -> TokenBatch:
        """One padded batch on the model's device; `features` of the pictures in the order of the requests."""
        pictures = () if features is None else features.pictures
        batch = collate(encoded, image_token_id=self.chat.image_token_id, pictures=pictures)
        return batch.to(self.device)

    def process(self, pictures: Sequence[Image.Image]) -> PictureInputs:
        """Pictures through the checkpoint's own image processor, as a plain request's."""
        return of_pictures(self.processor.image_processor, pictures)

    def process_canvas(self, canvas: Tensor) -> PictureInputs:
        """Float pictures (B, 3, H, W) of any range through the same steps; differentiable.

        Raises:
            ConfigError: the processor works on arrays, through which no gradient goes.
        """
        return of_canvas(self.processor.image_processor, canvas)

    def image_features(self, inputs: PictureInputs, deep: DeepPrompts = NO_PROMPTS) -> Features:
        """Processed pictures through tower and projector.

        Raises:
            UnsupportedError: this backbone takes no deep prompts.
        """
        self._check_plain(deep)
        placed = {name: self._placed(tensor) for name, tensor in inputs.tensors.items()}
        taken = {name: tensor for name, tensor in placed.items() if name in self._tower_inputs}
        output = self.model.get_image_features(**taken, return_dict=True)
        rows = torch.cat([picture.flatten(0, -2) for picture in output.pooler_output])
        others = {name: tensor for name, tensor in placed.items() if name in self._model_inputs}
        pictures = tuple(self._expansion(size).ids for size in inputs.sizes)
        return Features(rows, pictures, (output, others))

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    @cached_property
    def _tower_inputs(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.get_image_features).parameters)

    @cached_property
    def _model_inputs(self) -> frozenset[str]:
        """Inputs beside pixels that the language model's pass wants (sizes, grids)."""
        taken = frozenset(inspect.signature(self.model.forward).parameters)
        return taken - {"pixel_values", "pixel_attention_mask"}

    def logits(
        self,
        batch: TokenBatch,
        features: Features | None,
        keep: Tensor,
        *,
        deep: DeepPrompts = NO_PROMPTS,
        cache: Any = None,
    ) -> Tensor:
        """Logits (rows kept, vocabulary) of the tokens that follow the positions kept.

        Args:
            features: of the batch's pictures in order; None where it has none.
            keep: (B, T) bool.
            cache: filled with keys and values of the batch's rows, where given.

        Raises:
            UnsupportedError: this backbone takes no deep prompts.
        """
        self._check_plain(deep)
        caching = {"past_key_values": cache, "use_cache": cache is not None}
        if features is None:
            hidden = self.decoder(inputs_embeds=self._embed(batch.ids), **caching).last_hidden_state
            read: Tensor = self.head(hidden[keep])
            return read
        output, others = features.output
        for name in _TOKEN_TYPES & self._model_inputs:
            others = {**others, name: batch.image.int()}
        with _rows_read_out(self.head, keep):
            found = self.model(
                input_ids=batch.ids,
                pixel_values=None,  # some demand the name
                mm_encoder_outputs={"image": output},
                **others,
                **caching,
            )
        logits: Tensor = found.logits
        return logits

    def read_out(self, hidden: Tensor, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """Logits (…, vocabulary) of final hidden states (…, d).

        Raises:
            UnsupportedError: this backbone takes no deep prompts.
        """
        self._check_plain(deep)
        logits: Tensor = self.head(hidden)
        return logits

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def next_positions(self, batch: TokenBatch, deep: DeepPrompts = NO_PROMPTS) -> Tensor:
        """The rotary position (B,) of the token that follows each request of the pass just made."""
        positions = batch.lengths + deep.text_length
        deltas = self._rope_deltas
        return positions if deltas is None or not batch.image.any() else positions + deltas[:, 0]

    @property
    def _rope_deltas(self) -> Tensor | None:
        """Of the last pass, where a picture's rows share positions (multimodal rotary embeddings)."""
        return getattr(getattr(self.model, "model", None), "rope_deltas", None)

    def continue_from(self, cache: Any, tokens: Tensor, *, seen: Tensor, positions: Tensor) -> Tensor:
        """Hidden states (B, S, d) of tokens (B, S) that follow a cache, which grows by them.

        Args:
            seen: (B, cached + S), 1 on the rows to attend to (padding in the cache is 0).
            positions: (B, S), rotary position of each token.
        """
        if hasattr(getattr(self.model, "model", None), "rope_deltas"):
            positions = positions.expand(3, -1, -1)
        output = self.decoder(
            inputs_embeds=self._embed(tokens),
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def answer_loss(
        self, batch: TokenBatch, features: Features | None, deep: DeepPrompts = NO_PROMPTS
    ) -> Tensor:
        """Mean cross-entropy over the answer tokens of the batch; a float32 scalar. See `answer_total`."""
        total, count = self.answer_total(batch, features, deep)
        return total / max(1, count)

    def answer_total(
        self, batch: TokenBatch, features: Features | None, deep: DeepPrompts = NO_PROMPTS
    ) -> tuple[Tensor, int]:
        """Sum of the cross-entropy over the answer tokens of the batch, a float32 scalar, and their number.

        With `batch.allowed` a token competes with those that may stand in its place alone, as in an answer
        that the server holds to its choices; tokens without a rival do not count.
        """
        keep = torch.zeros_like(batch.answer)
        keep[:, :-1] = batch.answer[:, 1:]
        logits = self.logits(batch, features, keep, deep=deep).float()
        if batch.allowed is None:
            return F.cross_entropy(logits, batch.ids[batch.answer], reduction="sum"), len(logits)
        open_places = (batch.allowed >= 0).sum(1) > 1
        allowed = batch.allowed[open_places]
        rivals = logits[open_places].gather(1, allowed.clamp(min=0)).masked_fill(allowed < 0, -torch.inf)
        return F.cross_entropy(rivals, torch.zeros_like(allowed[:, 0]), reduction="sum"), len(rivals)

    def _check_plain(self, deep: DeepPrompts) -> None:
        if deep != NO_PROMPTS:
            raise unsupported(self.model)


@contextmanager
def _rows_read_out(head: nn.Module, keep: Tensor) -> Iterator[None]:
    """While open the output layer reads the rows kept (B, T) alone: a vocabulary is wide."""
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][keep], *args[1:]))
    try:
        yield
    finally:
        hook.remove()
