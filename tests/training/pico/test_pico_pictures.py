"""Glyphs, scenes and tasks of the pico family: the split, seeds that repeat, balance, real line drawings."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from prompts.errors import ConfigError
from training.pico.glyphs import draw_glyph, eligible_glyphs, group_of, load_split
from training.pico.scenes import CANVAS_PIXELS, draw_scene, random_scene
from training.pico.tasks import CATEGORIES, LINE_NAMES, TASKS, make_source

pytestmark = pytest.mark.unit


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.int64)


def test_the_split_keeps_held_out_names_out() -> None:
    split = load_split()
    assert len(split["known"]) >= 300
    assert len(split["held_out"]) == 80
    assert not {g.code for g in split["known"]} & {g.code for g in split["held_out"]}
    assert not {g.name for g in split["known"]} & {g.name for g in split["held_out"]}
    assert set(split["known"] + split["held_out"]) <= set(eligible_glyphs())


def test_every_group_has_known_members() -> None:
    sizes = Counter(group_of(glyph) for glyph in load_split()["known"])
    assert all(sizes[category] >= 10 for category in CATEGORIES)


def test_a_line_drawing_is_black_lines_alone() -> None:
    for glyph in load_split()["known"][::16]:
        line = pixels(draw_glyph(glyph.code, "line"))
        inked = line[line[..., 3] > 200]
        assert len(inked) > 100
        assert inked[:, :3].max() < 60, f"{glyph.name} has colour in its line layer"


def test_a_scene_repeats_from_its_seed_and_differs_between_seeds() -> None:
    glyphs = load_split()["known"][:2]
    first, again, other = (
        draw_scene(random_scene(np.random.default_rng(seed), glyphs)) for seed in (5, 5, 6)
    )
    assert first.size == (CANVAS_PIXELS, CANVAS_PIXELS)
    assert np.array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(other))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_an_example_depends_on_its_index_and_split_alone(task: str) -> None:
    train, test = make_source(task, "train", 8, 0), make_source(task, "test", 8, 0)
    assert train[3].question == train[3].question
    assert np.array_equal(pixels(train[3].picture), pixels(train[3].picture))
    assert any(not np.array_equal(pixels(train[i].picture), pixels(test[i].picture)) for i in range(8))
    assert all(example.answer in example.choices for example in (train[i] for i in range(8)))


@pytest.mark.parametrize(("task", "classes"), [("category", 5), ("count", 4), ("lines", 10), ("presence", 2)])
def test_answers_are_balanced(task: str, classes: int) -> None:
    source = make_source(task, "val", 400, 1)
    seen = Counter(source[index].answer for index in range(len(source)))
    assert len(seen) == classes
    assert max(seen.values()) < 1.7 * 400 / classes


def test_the_right_name_is_at_any_place_among_the_candidates() -> None:
    source = make_source("name", "test", 200, 0)
    places = Counter(source[i].choices.index(source[i].answer) for i in range(200))
    assert len(places) == 10
    assert max(places.values()) < 40


def test_line_names_are_known_names() -> None:
    assert set(LINE_NAMES) <= {glyph.name for glyph in load_split()["known"]}


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"data\.task: expected one of category.*came.*nonsense"):
        make_source("nonsense", "train", 1, 0)
