"""What the real server is asked in these tests, and how its answers are read."""

from typing import Any

import httpx

from tests.server.fake import picture_url

CHAT = "/v1/chat/completions"
FIRST = {"role": "user", "content": "hello there, how are you today?"}


def picture(colour_size: tuple[int, int] = (80, 60)) -> list[dict[str, Any]]:
    """A user's content: a picture and a question."""
    return with_url(picture_url(colour_size))


def with_url(url: str, text: str = "name the bird in the picture.") -> list[dict[str, Any]]:
    """The same, of a picture at `url`."""
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def question(content: Any = FIRST["content"], **body: Any) -> dict[str, Any]:
    """A greedy question whose answer is eight tokens, told by their ids."""
    asked = {"model": "base", "messages": [{"role": "user", "content": content}]}
    return asked | {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True} | body


def ids(response: httpx.Response) -> list[int]:
    """The eight tokens of an answer to `question`."""
    assert response.status_code == 200, response.text
    found: list[int] = response.json()["choices"][0]["token_ids"]
    assert len(found) == 8
    return found


def code_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return response.status_code, response.json()["error"]["code"]
