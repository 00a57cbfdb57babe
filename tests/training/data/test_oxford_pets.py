"""Oxford-IIIT Pet, whole and broken."""

from pathlib import Path

import pytest

from prompts.errors import ConfigError
from tests.training.data.opening import answers, is_upright, open_data, save_sideways

# image, class, species (1 cat, 2 dog), breed, as annotations/*.txt have them
LINES = (
    "Abyssinian_100 1 1 1",
    "Abyssinian_101 1 1 1",
    "american_pit_bull_terrier_12 3 2 2",
    "Abyssinian_102 1 1 1",
    "Bombay_9 8 1 4",
)


def write(root: Path, split: str = "trainval", lines: tuple[str, ...] = LINES) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    for line in lines:
        save_sideways(root / "images" / f"{line.split()[0]}.jpg")


def test_breeds_are_named_by_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_data("oxford_pets", root=tmp_path)
    cats = ["Abyssinian", "Bombay"]
    assert answers(source) == [*cats, "american pit bull terrier", "Abyssinian", "Abyssinian"]
    assert source[0].choices == ("Abyssinian", "american pit bull terrier", "Bombay")
    assert source[0].question == "What is in the picture?"
    assert all(is_upright(source[index].picture) for index in range(5))


def test_species(tmp_path: Path) -> None:
    write(tmp_path)
    source = open_data("oxford_pets", root=tmp_path, labels="species", limit=3, question="Cat or dog?")
    assert (answers(source), source[0].choices) == (["cat", "dog", "cat"], ("cat", "dog"))
    assert source[2].question == "Cat or dog?"


def test_a_limit_keeps_the_breeds_balanced_and_all_choices(tmp_path: Path) -> None:
    write(tmp_path, "test")
    source = open_data("oxford_pets", root=tmp_path, split="test", limit=2)
    assert answers(source) == ["Abyssinian", "Bombay"]
    assert len(source[0].choices or ()) == 3


def test_all_broken_lines_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    broken = ("Abyssinian_1 1 1", "", "Abyssinian_2 1 3 1", "nobreed 1 1 1", LINES[0])
    (tmp_path / "annotations" / "trainval.txt").write_text("\n".join(broken))
    with pytest.raises(ConfigError) as caught:
        open_data("oxford_pets", root=tmp_path)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        f"trainval.txt line {number}" for number in (1, 3, 4)
    ]


def test_all_missing_pictures_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("Abyssinian_101", "Bombay_9"):
        (tmp_path / "images" / f"{name}.jpg").unlink()
    with pytest.raises(ConfigError) as caught:
        open_data("oxford_pets", root=tmp_path)
    expected = "root: expected images/<Breed>_<number>.jpg and annotations/{trainval,test}.txt, came no "
    assert [fault.startswith(expected) for fault in caught.value.faults] == [True, True]
    assert len(open_data("oxford_pets", root=tmp_path, limit=1)) == 1  # what is not used may be missing


@pytest.mark.parametrize(("text", "came"), [(None, "no readable .*trainval.txt"), ("\n", "an empty ")])
def test_a_list_that_is_not_there_is_refused(tmp_path: Path, text: str | None, came: str) -> None:
    write(tmp_path)
    file = tmp_path / "annotations" / "trainval.txt"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=rf"root: expected images/.*, came {came}"):
        open_data("oxford_pets", root=tmp_path)
