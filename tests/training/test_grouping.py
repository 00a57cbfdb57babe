"""Batches of similar length: what padding that saves on real texts, and that nothing else changes."""

import json
import math
from pathlib import Path

import pytest

from prompts.errors import ConfigError
from tests.training.jobs import m2pt_job, make_llava_json
from training.backbone import LlavaBackbone
from training.batches import ShuffledOrder
from training.grouping import GroupedOrder, padding_share
from training.m2pt import train_m2pt

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
LEAST_TEXTS = 200


def lengths(size: int) -> list[int]:
    return [(7 * place * place) % 101 + 1 for place in range(size)]


def grouped(size: int, batch: int, seed: int = 3) -> GroupedOrder:
    return GroupedOrder(size, seed, batch=batch, length=lengths(size).__getitem__)


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (7, 4), (40, 8), (1001, 4), (3, 8)])
def test_each_epoch_has_each_place_once_and_is_another(size: int, batch: int) -> None:
    order = grouped(size, batch)
    epochs = [[order.place_at(position) for position in range(e * size, (e + 1) * size)] for e in range(3)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert size < 5 or (epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0]))


def test_a_position_does_not_depend_on_what_was_asked_before() -> None:
    order = grouped(1001, 4)
    whole = [order.place_at(position) for position in range(3000)]
    assert [grouped(1001, 4).place_at(position) for position in (2999, 3, 1500)] == [
        whole[2999],
        whole[3],
        whole[1500],
    ]
    assert whole != [grouped(1001, 4, seed=4).place_at(position) for position in range(3000)]


def test_a_batch_has_similar_lengths_and_batches_come_in_any_order() -> None:
    size, batch = 1000, 4
    order, long = grouped(size, batch), lengths(size)
    batches = [[long[order.place_at(n * batch + i)] for i in range(batch)] for n in range(size // batch)]
    assert max(max(one) - min(one) for one in batches) <= 12
    firsts = [one[0] for one in batches[:50]]
    assert firsts != sorted(firsts)


def test_the_second_epochs_batches_are_whole_as_well() -> None:
    """1,001 = 250 batches of 4 and one left, which the next epoch fills up."""
    size, batch = 1001, 4
    order, long = grouped(size, batch), lengths(size)
    spans = []
    for number in range(size // batch + 1, 2 * size // batch):
        batch_lengths = [long[order.place_at(number * batch + i)] for i in range(batch)]
        spans.append(max(batch_lengths) - min(batch_lengths))
    assert max(spans) <= 12


def test_padding_of_real_texts_is_halved_and_more(tiny: LlavaBackbone) -> None:
    """Lines of this project's documents in batches of 8: 39.2 % padding before, 3.8 % after, when written."""
    texts = [
        line
        for file in sorted(DOCUMENTS.glob("*.md"))
        for line in file.read_text("utf-8").splitlines()
        if line
    ]
    assert len(texts) >= LEAST_TEXTS
    long = [len(tiny.chat.plain_ids(text)) for text in texts]
    shuffled = ShuffledOrder(len(long), 0)
    by_length = GroupedOrder(len(long), 0, batch=8, length=long.__getitem__)
    shares = [
        padding_share([long[order.place_at(position)] for position in range(len(long))], batch=8)
        for order in (shuffled, by_length)
    ]
    assert shares[0] > 0.3
    assert shares[1] < 0.08


def test_a_share_of_padding() -> None:
    assert padding_share([1, 3, 2, 2, 5], batch=2) == pytest.approx(1 - 13 / (2 * 3 + 2 * 2 + 5))


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_job_sees_batches_of_one_length(tiny_folder: Path, tmp_path: Path) -> None:
    """Four short talks and four long: in batches of two the loss is the one kind's or the other's."""
    talks = [
        [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi" if n % 2 else "good day " * 9}]
        for n in range(8)
    ]
    file = make_llava_json(tmp_path, [{"conversations": talk} for talk in talks])
    data = {"kind": "llava_json", "file": str(file), "images": str(tmp_path)}
    losses = {}
    for name, by_length in (("grouped", True), ("shuffled", False)):
        options = {"group_by_length": by_length}
        config = m2pt_job(tiny_folder, tmp_path, tmp_path / name, options, data=data, steps=4, lr=1e-9)
        train_m2pt(config)
        losses[name] = losses_of(config.out)
    assert len(distinct(losses["grouped"])) == 2
    assert sorted(losses["grouped"])[:2] == pytest.approx(sorted(losses["grouped"])[:1] * 2, rel=1e-4)
    assert len(distinct(losses["shuffled"])) == 3, "the seed must mix them, or the test proves nothing"


def distinct(values: list[float]) -> list[float]:
    return [
        one for n, one in enumerate(values) if not any(math.isclose(one, v, rel_tol=1e-4) for v in values[:n])
    ]


def test_data_that_draws_its_pictures_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    data = {"kind": "pico", "task": "count", "size": 4}
    config = m2pt_job(tiny_folder, tmp_path, tmp_path / "out", {"group_by_length": True}, data=data)
    with pytest.raises(ConfigError, match=r"m2pt\.group_by_length: expected data whose texts can be read"):
        train_m2pt(config)
