"""Candidates and greedy text from a cache equal a naive loop that recomputes everything for each token."""

import pytest
import torch
from torch import Tensor

from tests.engine.tiny_llava import HIDDEN, LAYERS
from tests.training.conftest import one_of
from training.backbone import NO_PROMPTS, DeepPrompts, Features, LlavaBackbone, PictureInputs
from training.chat import Encoded
from training.decoding import ROWS_AT_ONCE, generate, score_choices

QUESTIONS = ["what digit is this?", "name the bird in the picture, if there is one.", "hello there"]
PICTURED = [True, True, False]
CHOICES = [["seven", "a heron by the water"], ["yes", "no", "well, thank you"], ["hello"]]
TEXT = torch.randn(LAYERS, 3, HIDDEN, generator=torch.Generator().manual_seed(4))
DEEP = pytest.mark.parametrize("deep", [NO_PROMPTS, DeepPrompts(text=TEXT)], ids=["plain", "text prompts"])


@pytest.fixture(scope="module")
def features(tiny: LlavaBackbone) -> Features:
    """Of the two questions that have a picture."""
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return tiny.image_features(PictureInputs({"pixel_values": pixels}, ((56, 56),) * 2))


def asked(tiny: LlavaBackbone, number: int, answer: str = "") -> Encoded:
    rendered = tiny.chat.render(QUESTIONS[number], picture=PICTURED[number])
    return tiny.chat.encode(rendered, answer, end=False)


@torch.no_grad()
def naive_log_probs(
    tiny: LlavaBackbone, encoded: Encoded, features: Features | None, deep: DeepPrompts
) -> Tensor:
    """(T, vocabulary) after each row of one question and its answer so far."""
    batch = tiny.collate([encoded], features)
    hidden = tiny.hidden_states(tiny.embed(batch, features), deep)
    return tiny.model.lm_head(hidden[0]).log_softmax(-1)


def own_features(features: Features, number: int) -> Features | None:
    return one_of(features, PICTURED[:number].count(True)) if PICTURED[number] else None


@DEEP
def test_scores_are_mean_log_likelihoods_per_token(
    tiny: LlavaBackbone, features: Features, deep: DeepPrompts
) -> None:
    prompts = [asked(tiny, number).prompt for number in range(3)]
    ids = [[asked(tiny, number, choice).answer for choice in CHOICES[number]] for number in range(3)]
    assert len({len(prompt) for prompt in prompts}) == 3  # so that there is padding in the cache
    scores = score_choices(tiny, prompts, ids, features=features, deep=deep)
    for number, group in enumerate(ids):
        for choice, answer in enumerate(group):
            whole = Encoded(prompts[number], answer)
            log_probs = naive_log_probs(tiny, whole, own_features(features, number), deep)
            steps = log_probs[-len(answer) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
            torch.testing.assert_close(scores[number][choice], steps.mean(), atol=1e-4, rtol=1e-4)


def test_more_candidates_than_rows_at_once(tiny: LlavaBackbone, features: Features) -> None:
    prompts = [asked(tiny, number).prompt for number in range(2)]
    many = [(5 + number % 300, 7, 9 + number % 5) for number in range(ROWS_AT_ONCE + 3)]
    together = score_choices(tiny, prompts, [many, many[:2]], features=features)
    assert [len(one) for one in together] == [ROWS_AT_ONCE + 3, 2]
    alone = score_choices(tiny, prompts[:1], [many[-1:]], features=one_of(features, 0))
    torch.testing.assert_close(together[0][-1:], alone[0], atol=1e-5, rtol=1e-5)


@DEEP
def test_greedy_text_is_the_naive_loops(tiny: LlavaBackbone, features: Features, deep: DeepPrompts) -> None:
    prompts = [asked(tiny, number).prompt for number in range(3)]
    answers = generate(tiny, prompts, features=features, deep=deep, max_new_tokens=6)
    for number, prompt in enumerate(prompts):
        said: list[int] = []
        while len(said) < 6:
            so_far = Encoded(prompt, tuple(said))
            log_probs = naive_log_probs(tiny, so_far, own_features(features, number), deep)
            token = int(log_probs[-1].argmax())
            if token in tiny.stop_ids:
                break
            said.append(token)
        assert answers[number] == tiny.chat.decode(said)
    assert len(set(answers)) > 1


def test_an_answer_ends_before_its_end_token(tiny: LlavaBackbone, features: Features) -> None:
    """Whatever token the model says second is made the end token: one token is left."""
    prompt = asked(tiny, 0).prompt
    two = naive_tokens(tiny, prompt, one_of(features, 0), 2)
    tiny.stop_ids, before = [two[1]], tiny.stop_ids
    try:
        assert generate(tiny, [prompt], features=one_of(features, 0)) == [tiny.chat.decode(two[:1])]
    finally:
        tiny.stop_ids = before


def naive_tokens(tiny: LlavaBackbone, prompt: tuple[int, ...], features: Features, count: int) -> list[int]:
    said: list[int] = []
    for _ in range(count):
        said.append(
            int(naive_log_probs(tiny, Encoded(prompt, tuple(said)), features, NO_PROMPTS)[-1].argmax())
        )
    return said
