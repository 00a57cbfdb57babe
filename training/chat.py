"""From a question and an answer to token ids, rendered as the server renders them.

The text goes through the model's own chat template with the picture as `<image>`; the usage of a bundle is
applied first (its system message stands before, its template's "{text}" becomes the question). As in vLLM's
chat endpoint, the rendered text is tokenised without adding special tokens: the template is all there is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor

from prompts.errors import ConfigError
from prompts.faults import fault
from prompts.manifest import Usage

__all__ = ["PROBE", "ChatEncoder", "Encoded", "TokenBatch", "collate"]

PROBE = "wherefore"
"""A word that no chat template writes by itself."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one request and its answer; a picture is ONE image token, expanded when batched.

    `allowed`: for each answer token the ids that may stand there, its own first; None: any.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    allowed: tuple[tuple[int, ...], ...] | None = None

    def cut(self, length: int) -> "Encoded":
        """The same with at most `length` answer tokens."""
        allowed = None if self.allowed is None else self.allowed[:length]
        return Encoded(self.prompt, self.answer[:length], allowed)


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded token ids with pictures expanded to their rows.

    Attributes:
        ids: (B, T) int64, image tokens where a picture's rows go; padding holds 0, which is never read.
        image: (B, T) bool, True where a row of image features goes.
        answer: (B, T) bool, True on the tokens to predict.
        lengths: (B,) int64, tokens without padding.
        allowed: (answer tokens of the batch, K) int64, the ids that may stand there, the right one first and
            -1 where there are fewer; None: any.
    """

    ids: Tensor
    image: Tensor
    answer: Tensor
    lengths: Tensor
    allowed: Tensor | None = None

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on another device."""
        ids, image, answer, lengths = (
            tensor.to(device) for tensor in (self.ids, self.image, self.answer, self.lengths)
        )
        allowed = None if self.allowed is None else self.allowed.to(device)
        return TokenBatch(ids, image, answer, lengths, allowed)


class ChatEncoder:
    """Chat template and tokenizer of one checkpoint."""

    def __init__(self, processor: Any, *, image_token_id: int, end_token_id: int) -> None:
        self._tokenizer = processor.tokenizer
        self._template = processor.chat_template or processor.tokenizer.chat_template
        self._image_token = processor.tokenizer.convert_ids_to_tokens(image_token_id)
        self.image_token_id = image_token_id
        self.end_token_id = end_token_id
        if not self._template:
            cure = "add chat_template.jinja to the checkpoint"
            problem = fault("chat_template", expected="one to ask a question with", came="none", cure=cure)
            raise ConfigError("model", [problem])
        self._parts = self._takes_parts()

    def render(self, question: str, *, picture: bool, usage: Usage | None = None) -> str:
        """The text the model reads before it answers."""
        usage = usage or Usage()
        messages = [{"role": "user", "content": self._content(usage.render(question), picture=picture)}]
        if usage.system:
            messages.insert(0, {"role": "system", "content": self._content(usage.system, picture=False)})
        try:
            return self._apply(messages)
        except TemplateError as error:
            expected, cure = "a conversation the model's chat template takes", "leave usage.system out"
            raise ConfigError(
                "usage", [fault("system", expected=expected, came=str(error), cure=cure)]
            ) from error

    def encode(self, rendered: str, answer: str, *, end: bool = True, bare: bool = False) -> Encoded:
        """Ids of a rendered question and of its answer, a space between them unless one is there.

        `bare`: no space is put there. Structured output allows the answer's own text alone.
        """
        prompt = self._ids(rendered)
        separator = "" if bare or not rendered or rendered[-1].isspace() else " "
        whole = self._ids(rendered + separator + answer)
        answered = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._ids(separator + answer)
        return Encoded(tuple(prompt), tuple(answered + [self.end_token_id] * end))

    def plain_ids(self, text: str) -> list[int]:
        """Ids of a text as it stands, without template or special tokens added."""
        return self._ids(text)

    def check_pictures(self, encoded: Encoded, *, picture: bool) -> None:
        """A picture's place is one image token of the question; a text that spells it out is refused.

        Raises:
            ConfigError: question, usage or answer holds the image token's own text.
        """
        came = encoded.prompt.count(self.image_token_id), encoded.answer.count(self.image_token_id)
        if came == (int(picture), 0):
            return
        expected = f"{int(picture)} image token in the question, none in the answer"
        cure = f"take {self._image_token!r} out of the text"
        problem = fault("data, usage", expected=expected, came=f"{came[0]} and {came[1]}", cure=cure)
        raise ConfigError("train", [problem])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _content(self, text: str, *, picture: bool) -> Any:
        if self._parts:
            return [{"type": "image"}] * picture + [{"type": "text", "text": text}]
        return f"{self._image_token}\n{text}" if picture else text

    def _apply(self, messages: list[dict[str, Any]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )

    def _takes_parts(self) -> bool:
        """Whether the template understands a list of content parts, or only a string."""
        content = [{"type": "image"}, {"type": "text", "text": PROBE}]
        try:
            rendered = self._apply([{"role": "user", "content": content}])
        except (TemplateError, TypeError):
            return False
        # BLIP-2's has no image token: the picture's rows come first.
        return rendered.count(self._image_token) <= 1 and PROBE in rendered and "'type'" not in rendered


def collate(
    encoded: Sequence[Encoded], *, image_token_id: int, pictures: Iterable[Sequence[int]]
) -> TokenBatch:
    """One padded batch; each image token becomes the ids of its picture.

    Args:
        encoded: B requests with their answers (an answer may be empty).
        pictures: what each picture becomes, in the order of the requests that have one: image tokens, one
            for each row of its features, and marks around or between them.

    Raises:
        ValueError: more or fewer pictures than image tokens.
    """
    left = iter(pictures)
    try:
        rows = [_expand(item, image_token_id, left) for item in encoded]
    except StopIteration as error:
        raise ValueError("pictures: expected one for each image token, came fewer") from error
    if next(left, None) is not None:
        raise ValueError("pictures: expected one for each image token, came more")
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    image, answer = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, answer_length) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        image[row, : len(tokens)] = ids[row, : len(tokens)] == image_token_id
        answer[row, len(tokens) - answer_length : len(tokens)] = True
    lengths = torch.tensor([len(tokens) for tokens, _ in rows])
    return TokenBatch(ids, image, answer, lengths, _allowed(encoded))


def _allowed(encoded: Sequence[Encoded]) -> Tensor | None:
    """The batch's `allowed`; None where no example has one.

    Raises:
        ValueError: some have one and some have none.
    """
    given = [item.allowed for item in encoded if item.allowed is not None]
    if not given:
        return None
    if len(given) < len(encoded):
        raise ValueError(f"expected `allowed` in all {len(encoded)} examples or in none, came {len(given)}")
    steps = [step for item in given for step in item]
    widest = max(map(len, steps), default=0)
    return torch.tensor([[*step, *[-1] * (widest - len(step))] for step in steps], dtype=torch.int64)


def _expand(item: Encoded, image_token_id: int, pictures: Iterator[Sequence[int]]) -> tuple[list[int], int]:
    expanded: list[int] = []
    for token in item.prompt:
        expanded += next(pictures) if token == image_token_id else [token]
    return expanded + list(item.answer), len(item.answer)
