"""A running server asked about examples: the same answers as `training.decoding` gives on transformers.

A candidate is scored by sending it as the beginning of the assistant's answer (`continue_final_message`):
vLLM tells the log-likelihood of every prompt token (`prompt_logprobs`), and the candidate's are the last.
They are what its prompt has more than that of the question alone, which is asked once for each question.
Learned rows and picture rows stand before them; what was learned acts on them as on any answer. The text
between question and candidate is held against what the trainers put there: no other text is scored unseen.

vLLM does not read its prefix cache for such a request: the question is computed again for each candidate.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import httpx

from prompts.errors import ConfigError, EngineError, UnsupportedError
from prompts.faults import fault, shown
from training.data import Example
from training.evaluate import choices_of
from training.served_client import ServerClient, TaskCard, messages_of

__all__ = ["ServedModel"]

Answered = TypeVar("Answered")
Body = dict[str, Any]

_FREE = {"response_format": {"type": "text"}}
"""Frees an answer that the server would hold to the task's choices."""
_TELL = {"return_token_ids": True, "return_prompt_text": True}
"""Asks for the prompt as the model read it."""


@dataclass(frozen=True)
class _Prompt:
    """What the model read: the text after the chat template, and its ids, pictures and learned rows in."""

    text: str
    ids: list[int]


class ServedModel:
    """One task of a running server, or its base model; asked about examples, `at_once` at a time.

    A context: its end closes the connections.

    Args:
        base_url: where it listens, `http://host:port`; a `/v1` at the end is allowed.
        task: a task of a Passepartout; None: the base model, of any vLLM (0.32).
        model: the name it is served under.
        api_key: the server's, if it has one.
        at_once: questions under way at a time.
        transport: in place of the network, for tests.

    Raises:
        ConfigError: an address that is none, or `at_once` below 1.
    """

    def __init__(
        self,
        base_url: str,
        *,
        task: str | None,
        model: str = "base",
        api_key: str | None = None,
        at_once: int = 16,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        faults = []
        if not base_url.startswith(("http://", "https://")):
            expected, cure = "http://HOST:PORT", "write the address out"
            faults.append(fault("address", expected=expected, came=shown(base_url), cure=cure))
        if at_once < 1:
            faults.append(fault("at_once", expected="1 or more", came=str(at_once), cure="ask one at least"))
        if faults:
            raise ConfigError("server", faults)
        self._client = ServerClient(base_url, api_key=api_key, transport=transport)
        self._asked: Body = {"model": model, **({} if task is None else {"task": task})}
        self._task, self._model, self._at_once = task, model, at_once
        self._card: TaskCard | None = None
        self._tails: dict[tuple[str, bool, str], list[int]] = {}

    def connect(self) -> TaskCard:
        """Asks the server, once, what it says of the task; every method below does so first.

        Raises:
            ConfigError, TaskNotFoundError: see `ServerClient.card`.
        """
        if self._card is None:
            self._card = self._client.card(self._model, self._task)
        return self._card

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        self._client.close()

    def score_choices(self, examples: Iterable[Example]) -> Iterator[list[float]]:
        """The mean log-likelihood per token of each of an example's choices, in the order of the examples.

        Raises:
            ConfigError: an example without choices; and see `connect`.
            UnsupportedError: the task has an lm_head of its own (vLLM makes prompt logprobs by the model's),
                or the server writes an answer after the question in another way than the trainers do.
            InputError, EngineError: see `ServerClient.chat`.
        """
        if self.connect().has_lm_head:
            came, cure = "a task with an lm_head of its own", "use how: structured"
            raise UnsupportedError(
                fault("task", expected="one whose prompt logprobs can be had", came=came, cure=cure)
            )
        return self._in_order(self._scores, examples)

    def generate(self, examples: Iterable[Example], max_new_tokens: int) -> Iterator[str]:
        """The greedy answer to each example, held to no choices, in their order.

        Raises:
            ConfigError, InputError, EngineError: see `connect` and `ServerClient.chat`.
        """
        self.connect()
        return self._in_order(lambda one: self._greedy(one, max_new_tokens, _FREE), examples)

    def structured(self, examples: Iterable[Example], choices: Sequence[str] | None = None) -> Iterator[str]:
        """The greedy answer to each example among `choices`, else the task's, else the example's.

        Raises:
            ConfigError: an example without choices where neither names any; and see `connect`.
            InputError, EngineError: see `ServerClient.chat`.
        """
        card = self.connect()
        given = choices or card.choices

        def answer(example: Example) -> str:
            group = list(given or choices_of(example))
            longest = 1 + max(len(choice.encode()) for choice in group)
            return self._greedy(example, longest, {"structured_outputs": {"choice": group}})

        return self._in_order(answer, examples)

    def _in_order(
        self, ask: Callable[[Example], Answered], examples: Iterable[Example]
    ) -> Iterator[Answered]:
        """Answers as they come, in the order of the examples, which are drawn when their turn comes."""
        waiting: deque[Future[Answered]] = deque()
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                for example in examples:
                    waiting.append(pool.submit(ask, example))
                    if len(waiting) > self._at_once:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for one in waiting:
                    one.cancel()

    def _greedy(self, example: Example, max_new_tokens: int, more: Body) -> str:
        answer = self._chat(messages_of(example), {"max_tokens": max_new_tokens, **more})
        return str(answer["choices"][0]["message"]["content"] or "").strip()

    def _chat(self, messages: list[Body], more: Body) -> Body:
        body = {**self._asked, "messages": messages, "temperature": 0.0, **more}
        return self._client.chat(body, digest=self.connect().digest)

    def _scores(self, example: Example) -> list[float]:
        asked = messages_of(example)
        question: _Prompt | None = None
        scores = []
        for choice in choices_of(example):
            prompt, log_probs = self._continued(asked, choice)
            key = (example.question, example.picture is not None, choice)
            if key not in self._tails:
                question = question or self._question(asked)
                self._tails[key] = _tail(question, prompt, choice, bare=self.connect().choices is not None)
            scores.append(_mean(log_probs, self._tails[key]))
        return scores

    def _question(self, messages: list[Body]) -> _Prompt:
        """The prompt of a question alone."""
        return _prompt_of(self._chat(messages, {"max_tokens": 1, **_TELL, **_FREE}))

    def _continued(self, messages: list[Body], choice: str) -> tuple[_Prompt, list[Any]]:
        """The prompt of a question with its answer begun, and vLLM's `prompt_logprobs` of it."""
        begun = [*messages, {"role": "assistant", "content": choice}]
        more = {"continue_final_message": True, "add_generation_prompt": False, "prompt_logprobs": 0}
        answer = self._chat(begun, {"max_tokens": 1, **more, **_TELL, **_FREE})
        return _prompt_of(answer), answer.get("prompt_logprobs") or []


def _prompt_of(answer: Body) -> _Prompt:
    text, ids = answer.get("prompt_text"), answer.get("prompt_token_ids")
    if not isinstance(text, str) or not isinstance(ids, list):
        cure = "ask a vLLM of version 0.32, or use how: structured"
        raise UnsupportedError(
            fault("prompt_text, prompt_token_ids", expected="both in the answer", came="neither", cure=cure)
        )
    return _Prompt(text, ids)


def _tail(question: _Prompt, whole: _Prompt, choice: str, *, bare: bool) -> list[int]:
    """The candidate's own tokens at the end of a prompt, as `training.chat` makes them.

    Raises:
        UnsupportedError: the server wrote another text than the trainers do, or its tokens reach back into
            the question.
    """
    space = "" if bare or not question.text or question.text[-1].isspace() else " "
    cure = "use how: structured, or measure without --server"
    if whole.text != question.text + space + choice:
        came = f"{shown(whole.text[len(question.text) :])} by the model's chat template"
        expected = f"{shown(space + choice)} after the question"
        raise UnsupportedError(fault(f"choice {shown(choice)}", expected=expected, came=came, cure=cure))
    length = len(question.ids)
    if whole.ids[:length] != question.ids or len(whole.ids) == length:
        came = "none" if len(whole.ids) == length else "some that reach back into the question"
        raise UnsupportedError(
            fault(f"choice {shown(choice)}", expected="tokens of its own", came=came, cure=cure)
        )
    return whole.ids[length:]


def _mean(log_probs: list[Any], tail: list[int]) -> float:
    """The mean log-likelihood of the last tokens of a prompt, which must be `tail`."""
    try:
        return sum(
            float(step[str(token)]["logprob"])
            for step, token in zip(log_probs[-len(tail) :], tail, strict=True)
        ) / len(tail)
    except (KeyError, TypeError, ValueError) as error:
        expected, cure = "prompt_logprobs of a choice's tokens", "ask a vLLM of version 0.32"
        raise EngineError(fault("answer", expected=expected, came="others", cure=cure)) from error
