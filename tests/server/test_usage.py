"""A task's way of being asked, put into bodies of every shape; what the client says itself wins."""

import copy
from typing import Any

import pytest

from prompts.errors import UnsupportedError
from prompts.manifest import Usage
from server.surface import Shape
from server.usage import apply_usage

USAGE = Usage(system="Be brief.", template="Name it: {text}!")
CHOICES = Usage(choices=("cat", "dog"))
SYSTEM = {"role": "system", "content": "Be brief."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:"}}


def applied(
    body: dict[str, Any], usage: Usage = USAGE, shape: Shape = Shape.CHAT, **how: Any
) -> dict[str, Any]:
    """`apply_usage`, and the proof that the body given is left as it was."""
    before = copy.deepcopy(body)
    asked = apply_usage(body, usage, shape=shape, **{"generates": True} | how)
    assert body == before
    return asked


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_system_and_template_go_into_a_chat() -> None:
    assert applied({"messages": [user("a bird")]})["messages"] == [SYSTEM, user("Name it: a bird!")]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_clients_own_system_message_wins(role: str) -> None:
    own = {"role": role, "content": "Be long."}
    assert applied({"messages": [own, user("x")]})["messages"] == [own, user("Name it: x!")]


def test_only_the_last_user_message_is_wrapped() -> None:
    conversation = [user("one"), {"role": "assistant", "content": "1"}, user("two")]
    wrapped = applied({"messages": conversation})["messages"]
    assert wrapped[1:] == [user("one"), {"role": "assistant", "content": "1"}, user("Name it: two!")]


@pytest.mark.parametrize(
    ("parts", "wrapped"),
    [
        ([PICTURE, "x"], [PICTURE, "Name it: x!"]),
        (["a", PICTURE, "b"], ["Name it: a", PICTURE, "b!"]),
        ([PICTURE], [PICTURE, "Name it: !"]),
    ],
    ids=["text", "texts", "picture alone"],
)
def test_the_template_stands_around_all_text_of_a_message(parts: list[Any], wrapped: list[Any]) -> None:
    def as_parts(given: list[Any]) -> list[Any]:
        return [{"type": "text", "text": one} if isinstance(one, str) else one for one in given]

    asked = applied({"messages": [user(as_parts(parts))]})
    assert asked["messages"][-1]["content"] == as_parts(wrapped)


def test_braces_in_what_the_user_wrote_stay() -> None:
    assert applied({"messages": [user("{text} {0} {")]})["messages"][-1] == user("Name it: {text} {0} {!")


def test_choices_become_structured_output() -> None:
    assert applied({"messages": []}, CHOICES)["structured_outputs"] == {"choice": ["cat", "dog"]}
    assert applied({"prompt": "a"}, CHOICES, Shape.TEXT)["structured_outputs"] == {"choice": ["cat", "dog"]}
    assert "structured_outputs" not in applied({"messages": []}, CHOICES, generates=False)


@pytest.mark.parametrize(
    "own",
    [
        {"structured_outputs": {"regex": "a+"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "text"}},
        {"tools": [{}]},
        {"text": {"format": {"type": "json_schema"}}},
    ],
)
def test_a_format_of_the_clients_own_wins(own: dict[str, Any]) -> None:
    assert applied(own, CHOICES) == own


def test_tools_that_may_not_be_called_are_no_format() -> None:
    assert "structured_outputs" in applied({"tools": [{}], "tool_choice": "none"}, CHOICES)


def test_a_batch_is_asked_conversation_by_conversation() -> None:
    asked = applied({"messages": [[user("a")], [SYSTEM, user("b")]]}, shape=Shape.BATCH)
    assert asked["messages"] == [[SYSTEM, user("Name it: a!")], [SYSTEM, user("Name it: b!")]]


def test_responses_take_instructions() -> None:
    assert applied({"input": "a"}, shape=Shape.RESPONSES) == {
        "input": "Name it: a!",
        "instructions": "Be brief.",
    }
    asked = applied({"input": [user([PICTURE])], "instructions": "Mine."}, shape=Shape.RESPONSES)
    assert asked["instructions"] == "Mine."
    assert asked["input"][0]["content"] == [PICTURE, {"type": "input_text", "text": "Name it: !"}]


def test_anthropics_system_is_a_field() -> None:
    asked = applied({"messages": [user("a")]}, shape=Shape.ANTHROPIC)
    assert asked == {"messages": [user("Name it: a!")], "system": "Be brief."}
    assert applied({"messages": [], "system": "Mine."}, shape=Shape.ANTHROPIC)["system"] == "Mine."


def test_anthropics_route_cannot_constrain_and_says_so() -> None:
    with pytest.raises(UnsupportedError, match="/v1/chat/completions"):
        apply_usage({"messages": []}, CHOICES, shape=Shape.ANTHROPIC, generates=True)


def test_a_raw_completion_has_no_roles() -> None:
    assert applied({"prompt": "a"}, shape=Shape.TEXT) == {"prompt": "a"}


@pytest.mark.parametrize("messages", ["hello", None, 7, [None, 3], [{"role": "user"}]])
@pytest.mark.parametrize("shape", list(Shape))
def test_what_is_no_conversation_is_left_for_vllm_to_refuse(messages: object, shape: Shape) -> None:
    asked = applied({"messages": messages, "input": messages}, Usage(template="{text}?"), shape)
    assert asked["messages"] == messages
