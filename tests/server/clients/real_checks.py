"""What openai-python asks the started real server of a task, beyond an answer: what vLLM's API has."""

from typing import Any

import openai

ASKED = [{"role": "user", "content": "hello there, how are you today? " * 40}]
TOOL_OPTIONS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def require_the_surface(url: str, key: str, *, rows: int) -> None:
    """Several choices with logprobs, cached tokens, a schema, tools; other endpoints; the model shown.

    `rows`: learned tokens of the task `texty`.
    """
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        given = {"model": "base:texty", "max_tokens": 4, "extra_body": {"ignore_eos": True}}
        for cached in (False, True):
            answer = client.chat.completions.create(  # type: ignore[call-overload]
                messages=ASKED, n=2, logprobs=True, top_logprobs=2, **given
            )
            assert [one.index for one in answer.choices] == [0, 1]
            told = answer.choices[1].logprobs.content
            assert [len(one.top_logprobs) for one in told] == [2] * 4
            details = answer.usage.prompt_tokens_details
            assert (details is not None and (details.cached_tokens or 0) >= 128) or not cached
        _require_other_endpoints(client)
        assert client.models.retrieve("base:texty").id == "base:texty"
        _require_structure(client)
        _require_tools(client, rows)


def _require_structure(client: openai.OpenAI) -> None:
    ask = client.chat.completions.create
    given = {"model": "base:texty", "messages": ASKED[:1], "max_tokens": 60, "temperature": 0}
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    found = ask(**given, response_format=shape)  # type: ignore[call-overload]
    assert found.choices[0].message.content.lstrip().startswith("{")


def _require_tools(client: openai.OpenAI, rows: int) -> None:
    """Whichever way the task is named, a random model begins the call that is asked for, and only then."""
    ways: list[dict[str, Any]] = [
        {"model": "base:texty"},
        {"model": "base", "extra_body": {"task": "texty"}},
        {"model": "base", "extra_headers": {"X-Task": "texty"}},
    ]
    function = {"name": "count", "parameters": SCHEMA}
    given = {
        "messages": [{"role": "user", "content": "name the bird"}],
        "max_tokens": 48,
        "temperature": 0,
        "tools": [{"type": "function", "function": function}],
    }
    ask = client.chat.completions.create
    for choice in ({"type": "function", "function": {"name": "count"}}, "auto"):
        base = ask(model="base", tool_choice=choice, **given)
        answers = [ask(tool_choice=choice, **given, **way) for way in ways]
        said = [_said(one.choices[0].message) for one in answers]
        assert said[0] == said[1] == said[2] != _said(base.choices[0].message)
        assert ("count" in said[0]) is (choice != "auto")
        assert {one.usage.prompt_tokens - base.usage.prompt_tokens for one in answers} == {rows}


def _said(message: Any) -> str:
    """The text, and each call that was finished in time."""
    calls = [f"{call.function.name}({call.function.arguments})" for call in message.tool_calls or ()]
    return " ".join([message.content or "", *calls])


def _require_other_endpoints(client: openai.OpenAI) -> None:
    task = {"task": "texty"}
    completion = client.completions.with_raw_response.create(
        model="base", prompt="hello", max_tokens=4, extra_body=task
    )
    response = client.responses.with_raw_response.create(
        model="base", input="hello", max_output_tokens=4, extra_body=task
    )
    assert [one.headers["X-Task"] for one in (completion, response)] == ["texty", "texty"]
    usage = response.parse().usage
    assert usage is not None
    assert usage.output_tokens == 4
