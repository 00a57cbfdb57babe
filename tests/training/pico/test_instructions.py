"""The instruction mix: answers that are true of what is drawn, phrasings, and what is kept apart."""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from prompts.errors import ConfigError
from training.data import Example
from training.pico.glyphs import Glyph, group_of, load_split
from training.pico.scenes import CANVAS_PIXELS, Placement, Scene, draw_scene
from training.pico.tasks import (
    INSTRUCTIONS_SEEN,
    INSTRUCTIONS_UNSEEN,
    TASKS,
    arranged,
    base,
    make_source,
    told,
)
from training.pico.tasks.instructions import INSTRUCTIONS
from training.pico.tasks.phrases import PHRASES

pytestmark = pytest.mark.unit

DRAWN_ON_SCENES = sorted(set(INSTRUCTIONS) - {"instruct_digits"})
BY_CODE = {glyph.code: glyph for part in load_split().values() for glyph in part}


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """Each scene that is drawn, in order."""
    seen: list[Scene] = []

    def draw_and_note(scene: Scene) -> object:
        seen.append(scene)
        return draw_scene(scene)

    for module in (arranged, base, told):
        monkeypatch.setattr(module, "draw_scene", draw_and_note)
    return seen


def examples(task: str, size: int, *, split: str = "val") -> Iterator[Example]:
    source = make_source(task, split, size, 3)
    return (source[index] for index in range(size))


def known(name: str) -> Glyph:
    return next(glyph for glyph in load_split()["known"] if glyph.name == name)


def middle(placed: Placement) -> tuple[float, float]:
    return placed.left + placed.side / 2, placed.top + placed.side / 2


def test_eight_are_seen_and_what_is_unseen_builds_on_them() -> None:
    assert len(INSTRUCTIONS_SEEN) == 8
    assert len(INSTRUCTIONS_UNSEEN) >= 4
    assert set(INSTRUCTIONS_SEEN).isdisjoint(INSTRUCTIONS_UNSEEN)
    assert {*INSTRUCTIONS_SEEN, *INSTRUCTIONS_UNSEEN} == set(INSTRUCTIONS) <= set(TASKS)
    assert all(set(skills) <= set(INSTRUCTIONS_SEEN) for skills in INSTRUCTIONS_UNSEEN.values())


@pytest.mark.parametrize("instruction", sorted(PHRASES))
def test_every_phrasing_is_used_and_filled_in(instruction: str) -> None:
    assert len(PHRASES[instruction]) >= 4
    questions = {example.question for example in examples(f"instruct_{instruction}", 120)}
    begun = Counter(
        next(phrase for phrase in PHRASES[instruction] if fits(phrase, question)) for question in questions
    )
    assert len(begun) == len(PHRASES[instruction])
    assert not any("{" in question for question in questions)


def fits(phrase: str, question: str) -> bool:
    return question.startswith(phrase.partition("{")[0]) and question.endswith(phrase.rpartition("}")[2])


def test_a_phrasing_belongs_to_one_instruction() -> None:
    phrases = [phrase for group in PHRASES.values() for phrase in group]
    assert [phrase for phrase, times in Counter(phrases).items() if times > 1] == []


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("task", DRAWN_ON_SCENES)
def test_held_out_glyphs_stay_held_out(scenes: list[Scene], task: str, split: str) -> None:
    held_out = load_split()["held_out"]
    asked = [example.question for example in examples(task, 25, split=split)]
    assert len(scenes) == 25
    assert not {glyph for scene in scenes for glyph in scene.glyphs} & set(held_out)
    assert len(set(asked)) > 1


@pytest.mark.parametrize(
    ("task", "classes"),
    [("background", 8), ("category", 5), ("count", 4), ("digits", 10), ("position", 4), ("presence", 2)],
)
def test_closed_answers_are_balanced(task: str, classes: int) -> None:
    found = list(examples(f"instruct_{task}", 300))
    seen = Counter(example.answer for example in found)
    assert {example.choices for example in found} == {found[0].choices}
    assert set(seen) == set(found[0].choices)
    assert len(seen) == classes
    assert max(seen.values()) < 1.7 * 300 / classes


@pytest.mark.parametrize("task", ["larger", "more"])
def test_the_right_one_is_named_first_half_of_the_time(task: str) -> None:
    firsts = [example.choices[0] == example.answer for example in examples(f"instruct_{task}", 200)]
    assert 0.4 < sum(firsts) / 200 < 0.6


def test_the_background_is_of_the_colour_said() -> None:
    for example in examples("instruct_background", 60):
        levels = np.asarray(example.picture, dtype=int).reshape(-1, 3)
        ground = np.median(levels, axis=0)
        away = {name: np.abs(ground - np.array(colour)).sum() for name, colour in arranged.COLOURS.items()}
        assert min(away, key=away.__getitem__) == example.answer


def test_the_colours_are_far_apart() -> None:
    colours = [np.array(colour) for colour in arranged.COLOURS.values()]
    apart = [np.abs(one - other).max() for i, one in enumerate(colours) for other in colours[:i]]
    assert min(apart) > 5 * arranged._TINT


def test_the_thing_asked_for_is_at_the_side_said(scenes: list[Scene]) -> None:
    for example, scene in zip(list(examples("instruct_position", 80)), scenes, strict=True):
        named, other = scene.placements
        assert f"the {named.glyph.name}" in example.question
        (x, y), (u, v) = middle(named), middle(other)
        half = CANVAS_PIXELS / 2
        off = {"left": half - x, "right": x - half, "top": half - y, "bottom": y - half}
        assert max(off, key=off.__getitem__) == example.answer
        assert sorted(off.values())[-1] > 3 * abs(sorted(off.values())[-2])
        assert (abs(x - u) > abs(y - v)) == (example.answer in ("left", "right"))
        for placed in (named, other):
            assert placed.left >= 0 <= placed.top
            assert max(placed.left, placed.top) + placed.side <= CANVAS_PIXELS


def ink(scene: Scene, index: int) -> np.ndarray:
    """Where one glyph of a scene is drawn: (224, 224) bool."""
    alone, empty = (
        np.asarray(draw_scene(Scene(((((128, 128, 128)),),), True, placed, scene.style)), dtype=int)
        for placed in ((scene.placements[index],), ())
    )
    return np.abs(alone - empty).max(axis=-1) > 40


def longest(mask: np.ndarray) -> int:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1


def test_the_larger_one_is_larger_as_it_is_drawn(scenes: list[Scene]) -> None:
    for example, scene in zip(list(examples("instruct_larger", 60)), scenes, strict=True):
        lengths = {placed.glyph.name: longest(ink(scene, n)) for n, placed in enumerate(scene.placements)}
        right, wrong = lengths.pop(example.answer), *lengths.values()
        assert right > 1.25 * wrong
        assert set(example.choices) == {glyph.name for glyph in scene.glyphs}


def test_there_is_more_of_what_is_said(scenes: list[Scene]) -> None:
    for example, scene in zip(list(examples("instruct_more", 60)), scenes, strict=True):
        counted = Counter(glyph.name for glyph in scene.glyphs)
        assert set(counted) == set(example.choices)
        assert counted.most_common(1)[0] == (example.answer, max(counted.values()))
        assert len(set(counted.values())) == 2


@pytest.mark.parametrize("task", ["larger", "more"])
def test_what_is_compared_is_whole_and_apart(scenes: list[Scene], task: str) -> None:
    cut = 0
    for _ in examples(f"instruct_{task}", 30):
        masks = [ink(scenes[-1], number) for number in range(len(scenes[-1].placements))]
        assert np.sum(masks, axis=0).max() == 1, "two drawings overlap"
        edges = [mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum() for mask in masks]
        cut += sum(edge > 12 for edge in edges)
    assert cut == 0


def test_the_odd_one_out_is_of_another_kind_than_the_rest(scenes: list[Scene]) -> None:
    sizes = Counter()
    for example, scene in zip(list(examples("instruct_odd_one_out", 80)), scenes, strict=True):
        kinds = Counter(group_of(glyph) for glyph in scene.glyphs)
        assert kinds[group_of(known(example.answer))] == 1
        assert sorted(kinds.values()) == [1, len(scene.glyphs) - 1]
        assert set(example.choices) == {glyph.name for glyph in scene.glyphs}
        sizes[len(scene.glyphs)] += 1
    assert set(sizes) == {3, 4}


def test_a_description_lists_what_is_drawn_from_left_to_right(scenes: list[Scene]) -> None:
    for example, scene in zip(list(examples("instruct_describe", 80)), scenes, strict=True):
        said = example.answer.replace(" and ", ", ").split(", ")
        placed = sorted(scene.placements, key=lambda one: middle(one)[0])
        assert [text.partition(" ")[2] for text in said] == [one.glyph.name for one in placed]
        assert len(set(example.choices)) == 4
        middles = [middle(one)[0] for one in placed]
        assert all(right - left >= 24 for left, right in itertools.pairwise(middles))


def test_presence_is_true_of_the_picture(scenes: list[Scene]) -> None:
    for example, scene in zip(list(examples("instruct_presence", 80)), scenes, strict=True):
        names = [f" {base.article(glyph.name)} {glyph.name}" for glyph in scene.glyphs]
        there = any(
            example.question.partition(name)[2][:1] in set("?. ") and name in example.question
            for name in names
        )
        assert example.answer == ("yes" if there else "no"), example.question


def test_chat_speaks_of_what_is_drawn(scenes: list[Scene]) -> None:
    uses = {"eat": "food", "travel": "vehicle", "wear": "clothing"}
    forms: Counter[str] = Counter()
    for example, scene in zip(list(examples("instruct_chat", 150)), scenes, strict=True):
        shown = {glyph.name: group_of(glyph) for glyph in scene.glyphs}
        use = next((kind for word, kind in uses.items() if word in example.question), None)
        if use is None:
            placed = sorted(scene.placements, key=lambda one: middle(one)[0])
            places = [example.answer.index(one.glyph.name) for one in placed]
            assert places == sorted(places)
        else:
            useful = [name for name, kind in shown.items() if kind == use]
            assert len(useful) <= 1
            wanted = f"Yes, {base.article(useful[0])} {useful[0]}." if useful else "No."
            assert example.answer == wanted
        assert example.choices.count(example.answer) == 1
        assert len(set(example.choices)) == len(example.choices) >= 3
        forms[example.question] += 1
    assert len(forms) == len(told.CHATS)


@pytest.mark.parametrize(
    ("mix", "tasks"), [("instructions", INSTRUCTIONS_SEEN), ("instructions_unseen", INSTRUCTIONS_UNSEEN)]
)
def test_a_mix_has_as_much_of_each_instruction(mix: str, tasks: tuple[str, ...]) -> None:
    source = make_source(mix, "train", 82, 0)
    assert set(source.counts) == set(tasks)
    assert sum(source.counts.values()) == len(source) == 82
    assert max(source.counts.values()) - min(source.counts.values()) <= 1
    example, again = source[17], make_source(mix, "train", 82, 0)[17]
    assert (example.question, example.answer) == (again.question, again.answer)
    assert example.picture.tobytes() == again.picture.tobytes()
    alone = [make_source(source.part_of(17), "train", 82, 0)[index] for index in range(17)]
    assert example.picture.tobytes() in [one.picture.tobytes() for one in alone]


def test_a_mix_of_fewer_examples_than_tasks_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.size: expected an example of each task, 8 at least, came 7"
    ):
        make_source("instructions", "train", 7, 0)
