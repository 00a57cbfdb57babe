"""M²PT on `transformers.Trainer`, as a careful user of transformers would write it.

`LlavaForConditionalGeneration` in the trainer's dtype, frozen but for the projector, which learns in float32
as the prompts do. Prompt rows stand in front of CLS and BOS, and forward hooks write each layer's own prompts
over what the layer before left there. The collator pads; all else is the Trainer's.
"""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from benchmarks.sides import Step
from prompts.deep import xavier_prompts
from training.data import Example

__all__ = ["WITHOUT_END", "Collator", "Hooked", "hooked_trainer", "in_steps"]

_IGNORED = -100
WITHOUT_END = 10**6
"""Steps that a Trainer is told to make: more than it will."""


class Hooked(nn.Module):
    """A LLaVA-layout model with M²PT's prompts in mode `released`; `last_loss` is that of its last pass.

    Parameters that learn, all float32: `text` (L, P_t, d), `vision` (L_v, P_v, d_v), and the projector's.
    """

    def __init__(self, model: LlavaForConditionalGeneration, *, lengths: tuple[int, int], seed: int) -> None:
        """`lengths`: (P_t, P_v)."""
        super().__init__()
        text, vision = model.config.text_config, model.config.vision_config
        generator = torch.Generator().manual_seed(seed)
        first = xavier_prompts(text.num_hidden_layers, lengths[0], text.hidden_size, generator)
        self.text = nn.Parameter(first)
        first = xavier_prompts(vision.num_hidden_layers, lengths[1], vision.hidden_size, generator)
        self.vision = nn.Parameter(first)
        self.model = model.requires_grad_(False)
        self.last_loss = torch.tensor(0.0)
        self._hook()

    def _hook(self) -> None:
        inner, dtype = self.model.model, self.model.dtype
        projector = inner.multi_modal_projector.float().requires_grad_(True)
        projector.register_forward_pre_hook(lambda _, args: (args[0].float(),))
        projector.register_forward_hook(lambda _, args, rows: rows.to(dtype))
        tower, decoder = inner.vision_tower, inner.language_model
        tower.pre_layrnorm.register_forward_hook(
            lambda _, args, rows: torch.cat([_rows(self.vision[0], rows), rows], dim=1)
        )
        _overwrite(tower.encoder.layers, self.vision)
        _overwrite(decoder.layers, self.text)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Loss over the answers' tokens, and logits (B, P_t + T, vocabulary)."""
        rows = self.model.get_input_embeddings()(input_ids)
        seen = self.model.get_image_features(pixel_values.to(rows.dtype)).pooler_output
        is_image = (input_ids == self.model.config.image_token_id)[..., None]
        rows = rows.masked_scatter(is_image, torch.cat(list(seen)))
        before = _rows(self.text[0], rows)
        ignored = labels.new_full(before.shape[:2], _IGNORED)
        output = self.model(
            inputs_embeds=torch.cat([before, rows], dim=1),
            attention_mask=torch.cat([torch.ones_like(ignored), attention_mask], dim=1),
            labels=torch.cat([ignored, labels], dim=1),
            use_cache=False,
        )
        self.last_loss = output.loss.detach()
        return {"loss": output.loss, "logits": output.logits}


class Collator:
    """From examples to a padded batch: pixels, ids with a picture's rows, mask, labels on the answers."""

    def __init__(self, processor: Any, *, image_rows: int) -> None:
        """`image_rows`: that a picture takes, its prompt rows among them."""
        self._processor, self._image_rows = processor, image_rows
        processor.tokenizer.padding_side = "right"

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """B examples with a picture each: (B, 3, h, w), and three of (B, T)."""
        tokenizer = self._processor.tokenizer
        asked = [self._asked(one.question) for one in examples]
        pairs = zip(asked, examples, strict=True)
        texts = [f"{_spaced(question)}{one.answer}{tokenizer.eos_token}" for question, one in pairs]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, _IGNORED)
        for row, question in enumerate(asked):
            labels[row, : len(tokenizer(question, add_special_tokens=False).input_ids)] = _IGNORED
        pictures = [one.picture for one in examples]
        pixels = self._processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return {
            "pixel_values": pixels,
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": labels,
        }

    def _asked(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        image: str = self._processor.image_token
        return str(text).replace(image, image * self._image_rows)


def hooked_trainer(
    folder: Path,
    examples: Sequence[Example],
    *,
    batch: int,
    dtype: str,
    lengths: tuple[int, int],
    lr: float,
    attention: str | None = None,
    steps: int = WITHOUT_END,
) -> Trainer:
    """A Trainer of M²PT on the checkpoint in `folder`, over `examples` in order, again and again.

    A process of its own makes the batches ahead. No schedule, no log, no checkpoint.

    Args:
        dtype: of the frozen weights, `float32` or `bfloat16`.
        lengths: (P_t, P_v).
        attention: `attn_implementation` of transformers; None: its default, sdpa.
    """
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    tower = model.config.vision_config
    image_rows = (tower.image_size // tower.patch_size) ** 2 + lengths[1]
    arguments = TrainingArguments(
        output_dir=str(folder),  # nothing is written
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=lr,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        dataloader_num_workers=1,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    return Trainer(
        model=Hooked(model, lengths=lengths, seed=arguments.seed),
        args=arguments,
        train_dataset=_Repeated(examples, steps * batch),
        data_collator=Collator(AutoProcessor.from_pretrained(folder), image_rows=image_rows),
    )


def in_steps(trainer: Trainer) -> Step:
    """The trainer's `train()` in a thread that goes one step at a time.

    The step raises RuntimeError, from what `train()` raised.
    """
    turns = _Turns()
    trainer.add_callback(turns)

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:
            turns.done.put(error)

    threading.Thread(target=train, daemon=True).start()

    def step() -> float:
        turns.go.put(None)
        error = turns.done.get()
        if error is not None:
            raise RuntimeError("the Trainer has ended") from error
        loss: float = trainer.model.last_loss.item()
        return loss

    return step


class _Turns(TrainerCallback):
    """Holds the Trainer before each step until it may `go`, and says when the step is `done`."""

    def __init__(self) -> None:
        self.go: SimpleQueue[None] = SimpleQueue()
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.go.get()

    def on_step_end(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        self.done.put(None)
        if state.global_step < state.max_steps:
            self.go.get()


class _Repeated(Dataset[Example]):
    """`size` examples: those given one after the other, from the first again after the last."""

    def __init__(self, examples: Sequence[Example], size: int) -> None:
        self._examples, self._size = examples, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        return self._examples[index % len(self._examples)]


def _spaced(question: str) -> str:
    """With the white space that stands before an answer, unless the chat template ends with some."""
    return question if question[-1].isspace() else question + " "


def _overwrite(layers: Sequence[nn.Module], prompts: Tensor) -> None:
    """After each layer but the last: the next one's prompts over the first rows."""
    for number, layer in enumerate(layers[: len(prompts) - 1], start=1):
        layer.register_forward_hook(partial(_put, prompts, number))


def _put(prompts: Tensor, number: int, _: nn.Module, __: Any, rows: Tensor) -> Tensor:
    return torch.cat([_rows(prompts[number], rows), rows[:, prompts.shape[1] :]], dim=1)


def _rows(prompts: Tensor, like: Tensor) -> Tensor:
    """Prompts (P, d) as rows (B, P, d) in the dtype of `like` (B, …)."""
    return prompts.to(like.dtype).expand(len(like), -1, -1)
