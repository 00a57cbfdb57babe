"""HTTP to a running server: what it says of itself, questions as chats, and its errors as ours."""

import base64
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from prompts.errors import ConfigError, EngineError, InputError, PassepartoutError, TaskNotFoundError
from prompts.faults import fault, shown
from prompts.picture import to_rgb
from training.data import Example

__all__ = ["DIGEST_HEADER", "ServerClient", "TaskCard", "messages_of"]

DIGEST_HEADER = "X-Task-Digest"
CHAT = "/v1/chat/completions"
_TIMEOUT = httpx.Timeout(300.0, connect=20.0)
_LIMITS = httpx.Limits(keepalive_expiry=2.0)
"""An idle connection is given up before the server (5 s) closes it under a question."""
_TRIES, _PAUSE_SECONDS = 4, 2.0
"""How often a question is asked that the server has no room for just now (503), and the pause between."""
_MESSAGE_CHARACTERS = 600


@dataclass(frozen=True)
class TaskCard:
    """What a server says of a task; of its base model alone nothing is set.

    Attributes:
        digest: of the bundle that answers.
        choices: `usage.choices`, to which the server holds an answer.
        has_lm_head: the task brings an output layer of its own.
    """

    digest: str | None = None
    choices: tuple[str, ...] | None = None
    has_lm_head: bool = False


class ServerClient:
    """Asks one server. May be used from many threads at once.

    Args:
        base_url: where it listens, `http://host:port`; a `/v1` at the end is allowed.
        api_key: sent as a bearer token.
        transport: in place of the network, for tests.

    Raises:
        ConfigError: an address that is none.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(
                base_url=self.base_url, headers=headers, timeout=_TIMEOUT, limits=_LIMITS, transport=transport
            )
        except httpx.InvalidURL as error:
            came, cure = f"{shown(base_url)} ({error})", "correct the address"
            raise _refused(fault("address", expected="http://HOST:PORT", came=came, cure=cure)) from error

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def card(self, model: str, task: str | None) -> TaskCard:
        """What the server says of the task; checks that it serves the model.

        Raises:
            ConfigError: nobody answers, the key is refused, another model is served, or no tasks are.
            TaskNotFoundError: the server has no task of that name.
        """
        names = [str(one.get("id")) for one in _listed(self._request("GET", "/v1/models"))]
        if model not in names:
            expected = f"one of: {', '.join(map(shown, names)) or 'none (no model is served)'}"
            cure = "name one of them (`--served-model NAME`)" if names else "start the server with a model"
            raise _refused(fault("served_model", expected=expected, came=shown(model), cure=cure))
        if task is None:
            return TaskCard()
        response = self._answer_of("GET", "/v1/tasks")
        if response.status_code == HTTPStatus.NOT_FOUND:
            cure = "start the server with `passepartout serve --tasks DIR`, or ask without a task"
            raise _refused(
                fault("task", expected="a server of tasks", came=f"none at {self.base_url}", cure=cure)
            )
        tasks = {str(one.get("id")): one for one in _listed(self._answered(response, "GET /v1/tasks"))}
        if task not in tasks:
            raise TaskNotFoundError(task, list(tasks))
        usage = tasks[task].get("usage") or {}
        choices = usage.get("choices")
        return TaskCard(
            digest=str(tasks[task]["digest"]),
            choices=None if choices is None else tuple(choices),
            has_lm_head=bool(tasks[task].get("lm_head")),
        )

    def chat(self, body: Mapping[str, Any], *, digest: str | None) -> dict[str, Any]:
        """The answer to a chat completion as JSON.

        Raises:
            ConfigError: nobody answers, or the key is refused.
            InputError: the server does not take the question (4xx); its own words are in the message.
            EngineError: it fails (5xx), or another bundle than `digest` (None: any) answered.
        """
        answer, headers = self._request("POST", CHAT, body)
        came = headers.get(DIGEST_HEADER)
        if came != digest:
            cure = "measure again: the store changed while it was asked"
            raise EngineError(fault(DIGEST_HEADER, expected=shown(digest), came=shown(came), cure=cure))
        return answer

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], httpx.Headers]:
        return self._answered(self._answer_of(method, path, body), f"{method} {path}")

    def _answer_of(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """The server's answer, whatever it is; asked again while it has no room (503)."""
        for _ in range(_TRIES - 1):
            response = self._send(method, path, body)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                return response
            time.sleep(_PAUSE_SECONDS)
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            cure = "look into its log, or ask fewer questions at once"
            raise EngineError(
                fault(
                    f"{method} {path}",
                    expected=f"an answer within {_TIMEOUT.read:.0f} s",
                    came="none",
                    cure=cure,
                )
            ) from error
        except httpx.TransportError as error:
            came = f"none at {self.base_url} ({error})"
            cure = "start it with `passepartout serve`, or correct the address"
            raise _refused(fault("address", expected="a running server", came=came, cure=cure)) from error

    def _answered(self, response: httpx.Response, asked: str) -> tuple[dict[str, Any], httpx.Headers]:
        if response.is_error:
            raise _error_of(response, asked)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            cure = "give the address of an OpenAI-compatible vLLM"
            raise _refused(
                fault(asked, expected="a JSON object", came=shown(response.text), cure=cure)
            ) from None
        return answer, response.headers


def messages_of(example: Example) -> list[Any]:
    """The example as a chat: one user message, the picture (PNG, nothing lost) before the question."""
    content: list[dict[str, Any]] = [{"type": "text", "text": example.question}]
    if example.picture is not None:
        buffer = io.BytesIO()
        to_rgb(example.picture).save(buffer, "PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": content}]


def _listed(answered: tuple[dict[str, Any], httpx.Headers]) -> list[dict[str, Any]]:
    listed = answered[0].get("data")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _error_of(response: httpx.Response, asked: str) -> PassepartoutError:
    """What went wrong, in the server's own words where it has any."""
    status = response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        cure = "give the key that the server was started with (--api-key)"
        return _refused(fault("api key", expected="one the server takes", came=f"status {status}", cure=cure))
    came = f"status {status}: {_words(response)}"
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        cure = "correct what the server names, or leave the example out"
        return InputError(fault(asked, expected="a question the server takes", came=came, cure=cure))
    cure = "look into the server's log"
    return EngineError(fault(asked, expected="an answer", came=came, cure=cure))


def _words(response: httpx.Response) -> str:
    try:
        error = json.loads(response.text)["error"]
        words = str(error["message"])
    except (ValueError, KeyError, TypeError):
        words = response.text
    return words[:_MESSAGE_CHARACTERS] or "no words"


def _refused(problem: str) -> ConfigError:
    return ConfigError("server", [problem])
