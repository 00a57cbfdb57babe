"""Real clients, each as its documentation says: openai-python, LiteLLM, LangChain, lm-eval."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.server.conftest import Site

ASKED = [{"role": "user", "content": "?"}]
WAYS = [
    {"model": "base", "extra_body": {"task": "plain"}},
    {"model": "base", "extra_headers": {"X-Task": "plain"}},
    {"model": "base:plain"},
]


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
def test_openai_python(client: openai.OpenAI, way: dict[str, object]) -> None:
    answer = client.chat.completions.create(messages=ASKED, **way)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "plain says anything"
    stream = client.chat.completions.create(messages=ASKED, stream=True, **way)  # type: ignore[call-overload]
    said = "".join(one.choices[0].delta.content or "" for one in stream)
    assert said == "plain says anything "


@pytest.mark.parametrize("way", WAYS)
def test_openai_python_async(site: Site, way: dict[str, object]) -> None:
    async def ask() -> list[str]:
        url = f"{site.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(messages=ASKED, **way)  # type: ignore[call-overload]
            stream = await client.chat.completions.create(  # type: ignore[call-overload]
                messages=ASKED, stream=True, **way
            )
            parts = [one.choices[0].delta.content or "" async for one in stream]
        return [whole.choices[0].message.content, "".join(parts).strip()]

    assert asyncio.run(ask()) == ["plain says anything"] * 2


def test_openai_python_lists_and_shows_models(client: openai.OpenAI) -> None:
    names = [one.id for one in client.models.list()]
    assert "base:plain" in names
    assert client.models.retrieve("base:plain").id == "base:plain"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("base:nosuch")
    assert caught.value.code == "model_not_found"


def test_openai_python_has_the_request_id(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="base", messages=ASKED)  # type: ignore[arg-type]
    assert answer._request_id
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="base:nosuch", messages=ASKED)  # type: ignore[arg-type]
    assert caught.value.request_id
    assert caught.value.request_id != answer._request_id


@pytest.mark.filterwarnings("default")  # theirs
def test_litellm(site: Site) -> None:
    import litellm

    there = {"api_base": f"{site.url}/v1", "api_key": "none", "messages": ASKED, "max_retries": 0}
    for way in WAYS:
        given = {**there, **way, "model": f"openai/{way['model']}"}
        answer = litellm.completion(**given)
        assert answer.choices[0].message.content == "plain says anything"
        stream = litellm.completion(**given, stream=True)
        assert "".join(one.choices[0].delta.content or "" for one in stream).strip() == "plain says anything"
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**there, model="openai/base:nosuch")


@pytest.mark.filterwarnings("default")  # theirs
def test_langchain(site: Site) -> None:
    from langchain_openai import ChatOpenAI

    there = {"base_url": f"{site.url}/v1", "api_key": "none", "max_retries": 0}
    ways = [
        {"model": "base", "extra_body": {"task": "plain"}},
        {"model": "base", "default_headers": {"X-Task": "plain"}},
        {"model": "base:plain"},
    ]
    for way in ways:
        model = ChatOpenAI(**there, **way)
        assert model.invoke("?").content == "plain says anything"
        assert "".join(part.content for part in model.stream("?")).strip() == "plain says anything"
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(**there, model="base:nosuch").invoke("?")


@pytest.mark.filterwarnings("default")  # theirs
def test_lm_eval(site: Site) -> None:
    """Its `local-chat-completions`, asked as its tasks ask it: a chat, until a word, so many tokens."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion

    model = LocalChatCompletion(
        model="base:plain", base_url=f"{site.url}/v1/chat/completions", num_concurrent=1, max_retries=1
    )
    chat = model.apply_chat_template(ASKED)
    asked = Instance(
        request_type="generate_until",
        doc={},
        arguments=(chat, {"until": ["."], "max_gen_toks": 8, "temperature": 0}),
        idx=0,
    )
    assert model.generate_until([asked]) == ["plain says anything"]
    assert site.server.seen[-1]["max_tokens"] == 8
