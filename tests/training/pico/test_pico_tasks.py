"""The pico tasks that reason and the digits: balance, splits apart, answers that only the picture gives."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

import training.pico.tasks.reasoning as reasoning
from training.data import Example
from training.pico.glyphs import Glyph, group_of
from training.pico.tasks import CATEGORIES, make_source
from training.pico.tasks.base import KINDS, article, compose
from training.pico.tasks.digits import DIGIT_NAMES, split_digits

pytestmark = pytest.mark.unit


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Glyph, ...]]:
    """The glyphs of each example of `reasoning`, in the order they were made."""
    seen: list[tuple[Glyph, ...]] = []

    def compose_and_note(rng: np.random.Generator, glyphs: list[Glyph], *rest: object) -> Example:
        seen.append(tuple(glyphs))
        return compose(rng, glyphs, *rest)

    monkeypatch.setattr(reasoning, "compose", compose_and_note)
    return seen


def examples(task: str, size: int = 300) -> Iterator[Example]:
    source = make_source(task, "val", size, 2)
    return (source[index] for index in range(size))


def test_same_kind_is_true_of_the_picture_and_one_glyph_says_nothing(drawn: list[tuple[Glyph, ...]]) -> None:
    answers = [example.answer for example in examples("same_kind")]
    kinds = [tuple(group_of(glyph) for glyph in pair) for pair in drawn]
    assert answers == ["yes" if first == second else "no" for first, second in kinds]
    assert all(first != second for first, second in drawn)
    assert 0.4 < answers.count("yes") / len(answers) < 0.6
    firsts = {
        wanted: Counter(pair[0] for pair, said in zip(kinds, answers, strict=True) if said == wanted)
        for wanted in ("yes", "no")
    }
    for wanted, counts in firsts.items():
        assert set(counts) == set(CATEGORIES)
        assert max(counts.values()) < 0.32 * answers.count(wanted), counts


def test_kind_beside_is_the_kind_of_the_one_not_named(drawn: list[tuple[Glyph, ...]]) -> None:
    found = list(examples("kind_beside"))
    for example, pair in zip(found, drawn, strict=True):
        asked = example.question.removeprefix("What kind of thing is beside the ").removesuffix("?")
        assert {asked, example.answer} == {group_of(glyph) for glyph in pair}
        assert asked != example.answer
    assert {group_of(pair[0]) == example.answer for example, pair in zip(found, drawn, strict=True)} == {
        True,
        False,
    }, "the answer always stands in the same place"


def test_missing_kind_is_the_third_kind(drawn: list[tuple[Glyph, ...]]) -> None:
    found = list(examples("missing_kind"))
    for example, pair in zip(found, drawn, strict=True):
        assert {example.answer, *(group_of(glyph) for glyph in pair)} == set(KINDS)
    after_food = Counter(
        example.answer for example, pair in zip(found, drawn, strict=True) if group_of(pair[0]) == "food"
    )
    assert min(after_food["vehicle"], after_food["face"]) > 0.35 * after_food.total(), "one look is enough"


@pytest.mark.parametrize(
    ("task", "classes"), [("digits", 10), ("kind_beside", 5), ("missing_kind", 3), ("same_kind", 2)]
)
def test_answers_are_balanced(task: str, classes: int) -> None:
    seen = Counter(example.answer for example in examples(task, 400))
    assert len(seen) == classes
    assert max(seen.values()) < 1.5 * 400 / classes
    assert min(seen.values()) > 0.5 * 400 / classes


def test_every_digit_is_in_one_split_alone_and_none_is_lost() -> None:
    parts = {
        split: [
            [picture.tobytes() for picture in split_digits(split)[digit]] for digit in range(len(DIGIT_NAMES))
        ]
        for split in ("train", "val", "test")
    }
    flat = {split: {picture for written in part for picture in written} for split, part in parts.items()}
    assert sum(len(pictures) for pictures in flat.values()) == 1797
    assert len(flat["train"] | flat["val"] | flat["test"]) == 1797
    assert {split: len(pictures) for split, pictures in flat.items()} == {
        "train": 1059,
        "val": 362,
        "test": 376,
    }
    assert all(len(written) >= 24 for part in parts.values() for written in part)


def test_a_digit_is_labelled_as_scikit_learn_labels_it() -> None:
    from sklearn.datasets import load_digits

    known = {
        picture.tobytes(): int(label) for picture, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    for digit, written in enumerate(split_digits("val")):
        levels = np.round(written.astype(float) * 16 / 255 + 0.25)
        assert {known[picture.reshape(-1).tobytes()] for picture in levels} == {digit}


def test_a_digit_is_dark_on_light_and_differs_in_place_and_size() -> None:
    boxes = set()
    for example in examples("digits", 40):
        grey = np.asarray(example.picture.convert("L"))
        ink = grey < 130
        assert np.asarray(example.picture).shape == (224, 224, 3)
        assert 0.01 < ink.mean() < 0.4
        assert np.median(grey) > 170
        rows, columns = ink.any(axis=1).nonzero()[0], ink.any(axis=0).nonzero()[0]
        boxes.add((rows[0], columns[0], rows[-1] - rows[0]))
        assert rows[-1] - rows[0] > 50
    assert len(boxes) > 35


def test_an_before_a_vowels_sound() -> None:
    assert [article(name) for name in ("owl", "cat", "egg", "european castle", "unicorn", "umbrella")] == [
        "an",
        "a",
        "an",
        "a",
        "a",
        "an",
    ]
