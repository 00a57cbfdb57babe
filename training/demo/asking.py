"""Asks the running server about held-out pictures, with openai-python, as any client would."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI
from tqdm import tqdm

from training.data import Example, ExampleSource
from training.served_client import messages_of

__all__ = ["Answer", "ask_all"]

_AT_ONCE = 16
_MAX_ANSWER_TOKENS = 12
_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Answer:
    """What the server said to one example, and the digest of the bundle that did (None: the base model)."""

    wanted: str
    said: str
    digest: str | None

    @property
    def right(self) -> bool:
        """Choices are sent along, so that an answer is exactly one of them."""
        return self.said.strip() == self.wanted


def ask_all(base_url: str, source: ExampleSource, *, task: str | None) -> list[Answer]:
    """Asks every example of `source`, a few at a time; `task` None asks the base model, same choices."""
    return asyncio.run(_ask_all(base_url, [source[index] for index in range(len(source))], task))


async def _ask_all(base_url: str, examples: Sequence[Example], task: str | None) -> list[Answer]:
    gate = asyncio.Semaphore(_AT_ONCE)
    async with AsyncOpenAI(base_url=base_url + "/v1", api_key="none", timeout=_TIMEOUT_SECONDS) as client:
        with tqdm(total=len(examples), desc=f"  {task or 'base'}", leave=False) as progress:

            async def ask(example: Example) -> Answer:
                async with gate:
                    answer = await _ask(client, example, task)
                progress.update()
                return answer

            asked: list[Awaitable[Answer]] = [ask(example) for example in examples]
            return list(await asyncio.gather(*asked))


async def _ask(client: AsyncOpenAI, example: Example, task: str | None) -> Answer:
    extra: dict[str, Any] = (
        {"task": task} if task else {"structured_outputs": {"choice": list(example.choices or ())}}
    )
    response = await client.chat.completions.with_raw_response.create(
        model="base",
        messages=messages_of(example),
        temperature=0.0,
        max_tokens=_MAX_ANSWER_TOKENS,
        extra_body=extra,
    )
    said = response.parse().choices[0].message.content or ""
    return Answer(example.answer, said, response.headers.get("x-task-digest"))
