"""The mask of a task's choices is the one that the server's grammar engine makes."""

from typing import Any

import pytest
import torch
import xgrammar

from prompts.errors import ConfigError
from tests.training.conftest import random_picture
from training.backbone import LlavaBackbone
from training.choices import ChoiceMask
from training.data import Example
from training.pico.members import find_member

CHOICES = ("one", "two", "three", "a heron", "a heron by the water", "crème brûlée")


def grammar_ids(tokenizer: Any, choices: tuple[str, ...], written: str) -> list[int]:
    """What xgrammar lets through after `written`, by the grammar that vLLM makes of choices."""
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
    grammar = "root ::= " + " | ".join(f'"{choice}"' for choice in choices)
    compiled = xgrammar.GrammarCompiler(info).compile_grammar(grammar)
    matcher = xgrammar.GrammarMatcher(compiled)
    assert not written or matcher.accept_string(written)
    mask = xgrammar.allocate_token_bitmask(1, info.vocab_size)
    matcher.fill_next_token_bitmask(mask)
    bits = (mask[0][:, None] >> torch.arange(32, dtype=torch.int32)) & 1
    return bits.flatten()[: info.vocab_size].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    "written", ["", "t", "th", "two", "a", "a ", "a heron", "a heron by", "cr", "crème br"]
)
@pytest.mark.parametrize("which", ["pico", "tiny"])
def test_the_mask_is_xgrammars(tiny: LlavaBackbone, which: str, written: str) -> None:
    tokenizer = find_member("pico-llava").tokenizer if which == "pico" else tiny.processor.tokenizer
    mask = ChoiceMask(tokenizer, CHOICES)
    assert mask.next_ids(written.encode()) == grammar_ids(tokenizer, CHOICES, written)


def test_an_answers_tokens_come_first_and_every_other_spelling_competes(tiny: LlavaBackbone) -> None:
    tokenizer = find_member("pico-llava").tokenizer
    mask = ChoiceMask(tokenizer, ("two", "three"))
    answer = tokenizer("three<|im_end|>", add_special_tokens=False).input_ids
    first, last = mask.allowed(answer)
    assert first[0] == answer[0]
    assert {tokenizer.decode([token]) for token in first} == {"t", "th", "thr", "three", "tw", "two"}
    assert last == (answer[1],)


@pytest.mark.parametrize("answer", ["four", "thr", "threes"])
def test_an_answer_that_is_none_of_the_choices_is_refused(answer: str) -> None:
    tokenizer = find_member("pico-llava").tokenizer
    ids = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False).input_ids
    with pytest.raises(ConfigError, match=rf"data: expected answers among .*, came '{answer}'"):
        ChoiceMask(tokenizer, ("two", "three")).allowed(ids)


def test_the_loss_sees_an_answers_rivals_alone(tiny: LlavaBackbone) -> None:
    """Against the whole distribution, cut to the mask and normalised again by hand."""
    from prompts.manifest import Usage

    usage = Usage(choices=("a heron", "a hero", "seven"))
    example = Example(random_picture(0), "what?", "a heron")
    encoded = tiny.encode_example(example, usage, over_choices=True)
    assert encoded.allowed is not None
    with torch.no_grad():
        features = tiny.image_features(tiny.process([random_picture(0)]))
        batch = tiny.collate([encoded], features)
        loss = tiny.answer_loss(batch, features)
        hidden = tiny.hidden_states(tiny.embed(batch, features))[0]
        places = batch.answer[0].nonzero().flatten() - 1
        wanted = []
        for place, token, allowed in zip(places, encoded.answer, encoded.allowed, strict=True):
            chances = tiny.model.lm_head(hidden[place]).softmax(-1)
            if len(allowed) > 1:
                wanted.append(-(chances[token] / chances[list(allowed)].sum()).log())
    assert len(wanted) >= 2
    torch.testing.assert_close(loss, torch.stack(wanted).mean(), atol=1e-4, rtol=1e-4)
