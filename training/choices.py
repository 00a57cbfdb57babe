"""What structured output lets through while it holds an answer to a task's choices.

A server masks every token that does not go on towards one of the choices, and lets any spelling through:
`snail` may come as `sn`, `ail` or letter by letter. A loss or a measure that knows only the tokenizer's own
spelling would teach and count something else than what is served.
"""

from collections.abc import Sequence
from typing import Any

from prompts.errors import ConfigError
from prompts.faults import fault, shown

__all__ = ["ChoiceMask"]


class ChoiceMask:
    """The tokens that may come next, given what is written of an answer.

    Args:
        tokenizer: the model's; its vocabulary is read as xgrammar reads it, which masks in vLLM.
        choices: the answers there are.
    """

    def __init__(self, tokenizer: Any, choices: Sequence[str]) -> None:
        from xgrammar import TokenizerInfo

        info = TokenizerInfo.from_huggingface(tokenizer)
        special = {*info.special_token_ids, *info.stop_token_ids}
        self.stop_ids = list(info.stop_token_ids)
        self._choices = [choice.encode() for choice in choices]
        self._names = list(choices)
        self._text = info.decoded_vocab
        self._ids: dict[bytes, list[int]] = {}
        pieces = {
            choice[i:j] for choice in self._choices for i in range(len(choice)) for j in _ends(choice, i)
        }
        for token, text in enumerate(self._text):
            if text in pieces and token not in special:
                self._ids.setdefault(text, []).append(token)
        self._spelled: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}

    def next_ids(self, written: bytes) -> list[int]:
        """Ids that may follow, ascending; the end tokens where a choice is complete."""
        left = [choice[len(written) :] for choice in self._choices if choice.startswith(written)]
        pieces = {rest[:length] for rest in left for length in range(1, len(rest) + 1)}
        ids = [token for piece in pieces for token in self._ids.get(piece, ())]
        return sorted(ids + self.stop_ids * (b"" in left))

    def text(self, token: int) -> bytes:
        """What a token writes; nothing for an end token."""
        return b"" if token in self.stop_ids else self._text[token]

    def allowed(self, answer: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """For each token of an answer (its end token too), itself and what else may stand there.

        Raises:
            ConfigError: the answer is none of the choices, or no server could write it in these tokens.
        """
        key = tuple(answer)
        if key not in self._spelled:
            self._spelled[key] = self._spell(key)
        return self._spelled[key]

    def _spell(self, answer: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        written, steps = b"", []
        for token in answer:
            ids = self.next_ids(written)
            if token not in ids:
                came = shown(b"".join(map(self.text, answer)).decode(errors="replace"))
                cure = "add it to usage.choices, or train with loss_over: vocabulary"
                expected = f"answers among {shown(self._names)}"
                raise ConfigError("train", [fault("data", expected=expected, came=came, cure=cure)])
            steps.append((token, *(other for other in ids if other != token)))
            written += self.text(token)
        return tuple(steps)


def _ends(choice: bytes, start: int) -> range:
    return range(start + 1, len(choice) + 1)
