"""The order of a run: a permutation an epoch, by seed alone; batches made ahead in a thread that ends."""

import threading
import time

import pytest

from training.batches import examples_of_pass, prepared
from training.data import Example


class Numbers:
    """A source whose examples say their own index."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Example:
        return Example(None, "", str(index))


def order(size: int, *, passes: range, batch: int, seed: int = 0) -> list[int]:
    source = Numbers(size)
    return [
        int(example.answer)
        for number in passes
        for example in examples_of_pass(source, number=number, batch=batch, seed=seed)
    ]


def test_each_epoch_is_another_permutation() -> None:
    seen = order(12, passes=range(6), batch=4)
    first, second = seen[:12], seen[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != sorted(first)


def test_a_batch_may_cross_the_end_of_an_epoch() -> None:
    assert order(5, passes=range(5), batch=2)[:10] == order(5, passes=range(2), batch=5)


def test_the_seed_and_the_number_alone_decide() -> None:
    assert order(9, passes=range(7, 9), batch=4) == order(9, passes=range(9), batch=4)[28:]
    assert order(9, passes=range(3), batch=3, seed=1) != order(9, passes=range(3), batch=3, seed=2)


def test_a_source_smaller_than_a_batch_is_gone_through_several_times() -> None:
    seen = order(2, passes=range(1), batch=12)
    assert [sorted(seen[start : start + 2]) for start in range(0, 12, 2)] == [[0, 1]] * 6


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_batches_come_in_order(count: int) -> None:
    assert list(prepared(lambda number: number * 10, range(5, 5 + count))) == [
        10 * number for number in range(5, 5 + count)
    ]


def test_an_error_comes_when_its_batch_is_due() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("broken picture")
        return number

    batches = prepared(make, range(9))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="broken picture"):
        next(batches)
    assert not batch_threads()


def test_closing_ends_the_thread_and_drops_what_was_not_begun() -> None:
    made = []

    def make(number: int) -> int:
        made.append(number)
        time.sleep(0.05)
        return number

    batches = prepared(make, range(100))
    next(batches)
    assert batch_threads()
    batches.close()
    assert not batch_threads()
    assert len(made) <= 3


def batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]
