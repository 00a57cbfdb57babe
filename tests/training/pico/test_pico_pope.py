"""POPE's three samplings: one set of pictures and yes-questions, rankings that the drawn data bear out."""

import zlib
from collections import Counter

import numpy as np
import pytest

from training.data import Example
from training.pico.glyphs import Glyph, group_of
from training.pico.tasks import make_source
from training.pico.tasks.pope import companions, shown_together, world

pytestmark = pytest.mark.unit

SAMPLINGS = ("pope_random", "pope_popular", "pope_adversarial")
SIZE = 200


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Example]]:
    sources = {task: make_source(task, "val", SIZE, 0) for task in SAMPLINGS}
    return {task: [source[index] for index in range(SIZE)] for task, source in sources.items()}


@pytest.fixture(scope="module")
def pictures() -> list[list[Glyph]]:
    """What 4,000 pictures show."""
    rng = np.random.default_rng(0)
    return [shown_together(rng) for _ in range(4000)]


def shown_in(index: int) -> list[str]:
    """The names shown in example `index`: its stream begins with them."""
    return [glyph.name for glyph in shown_together(np.random.default_rng([2, zlib.crc32(b"pope"), 0, index]))]


def name_in(question: str) -> str:
    assert question.startswith(("Is there a ", "Is there an ")), question
    return question.split(" ", 3)[3].removesuffix(" in the picture?")


def test_the_three_share_pictures_and_yes_questions(asked: dict[str, list[Example]]) -> None:
    for first, *others in zip(*asked.values(), strict=True):
        for other in others:
            assert np.array_equal(np.asarray(first.picture), np.asarray(other.picture))
            assert other.answer == first.answer
            assert first.answer == "no" or other.question == first.question
    no = [index for index, example in enumerate(asked["pope_random"]) if example.answer == "no"]
    differ = [
        sum(asked[a][i].question != asked[b][i].question for i in no)
        for a, b in (SAMPLINGS[:2], SAMPLINGS[1:])
    ]
    assert min(differ) > 0.5 * len(no)


@pytest.mark.parametrize("task", SAMPLINGS)
def test_half_yes_half_no_and_true_of_the_picture(task: str, asked: dict[str, list[Example]]) -> None:
    answers = [example.answer for example in asked[task]]
    assert 0.4 < answers.count("yes") / SIZE < 0.6
    for index, example in enumerate(asked[task]):
        assert (name_in(example.question) in shown_in(index)) == (example.answer == "yes")


def test_absent_names_are_what_the_sampling_says(asked: dict[str, list[Example]]) -> None:
    by_name = {glyph.name: glyph for glyph in world()}
    ranks: dict[str, list[int]] = {task: [] for task in SAMPLINGS}
    for task in SAMPLINGS:
        for index, example in enumerate(asked[task]):
            if example.answer == "yes":
                continue
            shown = shown_in(index)
            name = name_in(example.question)
            popular = [glyph.name for glyph in world() if glyph.name not in shown]
            ranks[task].append(popular.index(name))
            if task == "pope_adversarial":
                beside = [
                    [other.name for other in companions(by_name[one]) if other.name not in shown][:3]
                    for one in shown
                ]
                assert any(name in three for three in beside)
    assert set(ranks["pope_popular"]) == {0, 1, 2}
    assert np.mean(ranks["pope_random"]) == pytest.approx(len(world()) / 2, abs=10)
    assert len(set(ranks["pope_random"])) > 50


def test_the_popular_are_the_frequent_and_companions_come_together(pictures: list[list[Glyph]]) -> None:
    times = Counter(glyph for shown in pictures for glyph in shown)
    order = list(world())
    assert len(order) > 100
    assert {glyph for glyph, _ in times.most_common(3)} == set(order[:3])
    thirds = [sum(times[glyph] for glyph in order[start : start + 35]) for start in (0, 35, 70)]
    assert thirds[0] > 3 * thirds[1] > 3 * thirds[2]
    for glyph in order[:6]:
        beside = Counter(other for shown in pictures if glyph in shown for other in shown if other != glyph)
        assert beside.most_common(1)[0][0] == companions(glyph)[0], glyph.name
        assert group_of(companions(glyph)[0]) == group_of(glyph)


def test_a_picture_shows_three_or_four_different_things(pictures: list[list[Glyph]]) -> None:
    assert {len(shown) for shown in pictures} == {3, 4}
    assert all(len(set(shown)) == len(shown) for shown in pictures)
    assert all(glyph not in companions(glyph) for glyph in world())
    assert len(companions(world()[0])) == len(world()) - 1
