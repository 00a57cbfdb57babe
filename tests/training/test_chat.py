"""Rendering and tokens as the model's own template and tokenizer make them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from prompts.errors import ConfigError
from prompts.manifest import Usage
from tests.training.conftest import random_picture
from training.backbone import LlavaBackbone
from training.chat import ChatEncoder, Encoded, collate
from training.data import Example

STRINGS_ONLY = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content + '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}{% endfor %}"
)


@pytest.fixture
def processor(tiny_folder: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_folder)


def encoder(processor: Any, template: str | None = None) -> ChatEncoder:
    if template is not None:
        processor.chat_template = template
    image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    return ChatEncoder(processor, image_token_id=image_token_id, end_token_id=2)


@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(system="Answer in one word."),
        Usage(template="Look well. {text} Say only the name, not {name}."),
        Usage(system="Answer in one word.", template="{text}!"),
    ],
    ids=["plain", "system", "template", "both"],
)
def test_it_is_the_processors_own_chat_template(processor: Any, usage: Usage, picture: bool) -> None:
    text = usage.template.replace("{text}", "what {is} it?") if usage.template else "what {is} it?"
    parts = [{"type": "image"}] * picture + [{"type": "text", "text": text}]
    talk: list[Any] = [{"role": "user", "content": parts}]
    if usage.system:
        talk.insert(0, {"role": "system", "content": [{"type": "text", "text": usage.system}]})
    expected = processor.apply_chat_template(talk, add_generation_prompt=True)
    found = encoder(processor).render("what {is} it?", picture=picture, usage=usage)
    assert found == expected
    assert found.count("<image>") == int(picture)


def test_a_template_of_strings_gets_the_image_token_as_text(processor: Any) -> None:
    chat = encoder(processor, STRINGS_ONLY)
    assert chat.render("what?", picture=True) == "<s>user: <image>\nwhat?\nassistant:"
    assert chat.render("what?", picture=False) == "<s>user: what?\nassistant:"


def test_a_template_without_system_messages_says_so(processor: Any) -> None:
    chat = encoder(processor, NO_SYSTEM)
    assert chat.render("what?", picture=True) == "<image>what?"
    with pytest.raises(ConfigError, match=r"system: expected a conversation .*, came no system; leave"):
        chat.render("what?", picture=False, usage=Usage(system="Be brief."))


def test_a_checkpoint_without_a_template_is_refused(processor: Any) -> None:
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat_template: expected one"):
        encoder(processor)


@pytest.mark.parametrize("rendered", ["<s>USER: hello ASSISTANT:", "<s>USER: hello\n", "<s>hello "])
def test_the_answer_goes_on_where_the_question_ends(processor: Any, rendered: str) -> None:
    """Tokens are those the model would say: the whole is the question's own tokens and then the answer's."""
    encoded = encoder(processor).encode(rendered, "a heron")
    tokenizer = processor.tokenizer
    assert list(encoded.prompt) == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    space = "" if rendered[-1].isspace() else " "
    assert encoded.answer[-1] == 2
    whole = [*encoded.prompt, *encoded.answer[:-1]]
    assert tokenizer.decode(whole) == f"{rendered}{space}a heron"
    assert encoder(processor).encode(rendered, "a heron", end=False).answer == encoded.answer[:-1]


def test_a_bare_answer_has_no_space_before_it(processor: Any) -> None:
    chat, rendered = encoder(processor), "<s>USER: hello ASSISTANT:"
    bare = chat.encode(rendered, "a heron", bare=True)
    assert processor.tokenizer.decode([*bare.prompt, *bare.answer[:-1]]) == f"{rendered}a heron"


def test_decoding_leaves_special_tokens_out(processor: Any) -> None:
    chat = encoder(processor)
    assert chat.decode(chat.encode("<s>USER: hello ASSISTANT:", "a heron").answer) == "a heron"


def test_a_batch_is_padded_right_and_pictures_are_expanded() -> None:
    batch = collate(
        [Encoded((1, 9, 7), (5, 2)), Encoded((1,), ()), Encoded((9,), (4,))],
        image_token_id=9,
        pictures=[(8, 9, 9), (9, 9, 9)],  # the first has a mark before its rows
    )
    assert batch.ids.tolist() == [[1, 8, 9, 9, 7, 5, 2], [1, 0, 0, 0, 0, 0, 0], [9, 9, 9, 4, 0, 0, 0]]
    assert batch.image.nonzero().tolist() == [[0, 2], [0, 3], [2, 0], [2, 1], [2, 2]]
    assert batch.answer.nonzero().tolist() == [[0, 5], [0, 6], [2, 3]]
    assert batch.lengths.tolist() == [7, 1, 4]
    assert torch.equal(batch.to(torch.device("cpu")).ids, batch.ids)


@pytest.mark.parametrize(("pictures", "came"), [([], "fewer"), ([(9,), (9,)], "more")])
def test_each_image_token_has_its_picture(pictures: list[tuple[int, ...]], came: str) -> None:
    with pytest.raises(ValueError, match=f"pictures: expected one for each image token, came {came}"):
        collate([Encoded((1, 9), ())], image_token_id=9, pictures=pictures)


def test_padding_is_no_picture_where_the_image_token_is_the_first() -> None:
    batch = collate([Encoded((0, 5, 5), ()), Encoded((5,), ())], image_token_id=0, pictures=[(0, 0)])
    assert batch.image.tolist() == [[True, True, False, False], [False] * 4]


def test_a_batch_pads_what_is_allowed() -> None:
    first, second = Encoded((1,), (5, 2), ((5, 6, 7), (2,))), Encoded((1,), (6, 2), ((6, 5, 7), (2, 8)))
    batch = collate([first, second.cut(1)], image_token_id=9, pictures=[])
    assert batch.allowed is not None
    assert batch.allowed.tolist() == [[5, 6, 7], [2, -1, -1], [6, 5, 7]]
    assert collate([Encoded((1,), ())], image_token_id=9, pictures=[]).allowed is None
    with pytest.raises(ValueError, match="in all 2 examples or in none, came 1"):
        collate([first, Encoded((1,), (6,))], image_token_id=9, pictures=[])


@pytest.mark.parametrize(
    ("question", "answer", "usage"),
    [
        ("<image> what?", "a", Usage()),
        ("what?", "an <image>", Usage()),
        ("what?", "a", Usage(system="<image>")),
    ],
)
def test_a_text_that_spells_the_image_token_is_refused(
    tiny: LlavaBackbone, question: str, answer: str, usage: Usage
) -> None:
    example = Example(random_picture(0), question, answer)
    with pytest.raises(ConfigError, match=r"data, usage: expected 1 image token .* take '<image>' out"):
        tiny.encode_example(example, usage)
