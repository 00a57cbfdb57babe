"""How a task wants to be asked, put into a request: system message, template, choices.

Works on the JSON bodies of the OpenAI and Anthropic APIs, which are public and stable, before vLLM reads
them; bodies are never changed in place. What a client says itself wins:

- `usage.system` is put in where the request has no system (or developer) message of its own;
- `usage.template` wraps the text of the last user message, `{text}` being what the user wrote;
- `usage.choices` becomes vLLM's `structured_outputs` unless the request asks for a format of its own
  (`structured_outputs`, `response_format`, `text.format`, or tools that may be called). The explicit
  `response_format: {"type": "text"}` is such a wish: it frees the answer.

A raw completion (`prompt`) has neither messages nor roles: it gets the choices alone.
"""

from collections.abc import Mapping
from typing import Any

from prompts.errors import UnsupportedError
from prompts.faults import fault
from prompts.manifest import TEXT_FIELD, Usage
from server.surface import Shape

__all__ = ["apply_usage"]

Body = dict[str, Any]

_SYSTEM_ROLES = ("system", "developer")
_TEXT_TYPES = {Shape.RESPONSES: "input_text"}
_OWN_FORMATS = ("structured_outputs", "response_format")


def apply_usage(body: Mapping[str, Any], usage: Usage, *, shape: Shape, generates: bool) -> Body:
    """Return the body that asks the way the task wants; a body of unexpected form is left for vLLM to refuse.

    Raises:
        UnsupportedError: the task answers by choices and the route has no way to say so.
    """
    asked = dict(body)
    if shape is Shape.BATCH and isinstance(body.get("messages"), list):
        asked["messages"] = [_ask(one, usage, shape) for one in body["messages"]]
    elif shape is Shape.CHAT and "messages" in body:
        asked["messages"] = _ask(body["messages"], usage, shape)
    elif shape is Shape.ANTHROPIC:
        asked = _ask_anthropic(asked, usage)
    elif shape is Shape.RESPONSES:
        asked = _ask_responses(asked, usage)
    if usage.choices is not None and generates and not _has_own_format(body):
        if shape is Shape.ANTHROPIC:
            raise UnsupportedError(_no_choices_here())
        asked["structured_outputs"] = {"choice": list(usage.choices)}
    return asked


def _ask(messages: object, usage: Usage, shape: Shape) -> object:
    """One conversation of the chat API."""
    conversation = _with_template(messages, usage, shape)
    if usage.system is None or not isinstance(conversation, list) or _has_system(conversation):
        return conversation
    return [{"role": "system", "content": usage.system}, *conversation]


def _ask_anthropic(body: Body, usage: Usage) -> Body:
    if "messages" in body:
        body["messages"] = _with_template(body["messages"], usage, Shape.ANTHROPIC)
    if usage.system is not None and not body.get("system"):
        body["system"] = usage.system
    return body


def _ask_responses(body: Body, usage: Usage) -> Body:
    given = body.get("input")
    if isinstance(given, str):
        body["input"] = usage.render(given)
    elif isinstance(given, list):
        body["input"] = _with_template(given, usage, Shape.RESPONSES)
    has_system = isinstance(given, list) and _has_system(given)
    if usage.system is not None and not body.get("instructions") and not has_system:
        body["instructions"] = usage.system
    return body


def _with_template(messages: object, usage: Usage, shape: Shape) -> object:
    """The conversation with the last user message's text in the template."""
    if usage.template is None or not isinstance(messages, list):
        return messages
    for index in reversed(range(len(messages))):
        message = messages[index]
        if isinstance(message, dict) and message.get("role") == "user" and "content" in message:
            content = _wrap_content(message["content"], usage, _TEXT_TYPES.get(shape, "text"))
            return [*messages[:index], {**message, "content": content}, *messages[index + 1 :]]
    return messages


def _wrap_content(content: object, usage: Usage, text_type: str) -> object:
    """Put the template around all text of a message, pictures staying where they are.

    A message of pictures alone gets the template as its text: the prompt was learned with it.
    """
    if isinstance(content, str):
        return usage.render(content)
    if not isinstance(content, list):
        return content
    places = [index for index, part in enumerate(content) if _is_text(part)]
    if not places:
        return [*content, {"type": text_type, "text": usage.render("")}]
    before, _, after = str(usage.template).partition(TEXT_FIELD)
    wrapped = list(content)
    wrapped[places[0]] = {**wrapped[places[0]], "text": before + wrapped[places[0]]["text"]}
    wrapped[places[-1]] = {**wrapped[places[-1]], "text": wrapped[places[-1]]["text"] + after}
    return wrapped


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _has_system(messages: list[Any]) -> bool:
    return any(isinstance(one, dict) and one.get("role") in _SYSTEM_ROLES for one in messages)


def _has_own_format(body: Mapping[str, Any]) -> bool:
    if any(body.get(field) is not None for field in _OWN_FORMATS):
        return True
    text = body.get("text")
    if isinstance(text, dict) and text.get("format") is not None:
        return True
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def _no_choices_here() -> str:
    return fault(
        "task",
        expected="a task without usage.choices (this API has no field for them)",
        came="a task that answers with one of its choices",
        cure="ask it at /v1/chat/completions",
    )
