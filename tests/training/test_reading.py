"""A run's examples: whose seat a broken one's is, when there are too many, and what a resumed run sees."""

from collections.abc import Callable, Collection, Iterator, Sequence

import pytest

from prompts.errors import ConfigError, PictureError, RecordError
from training.batches import places_of_pass
from training.data import Example
from training.data.mix import MixSource
from training.ledger import Broken, Ledger
from training.reading import Reader, Seat, open_reader


def example(number: int) -> Example:
    return Example(None, "?", str(number))


class Numbers:
    """A source whose examples say their own index, and some of which are broken."""

    def __init__(self, size: int, broken: Collection[int] = (), records: Sequence[str] = ()) -> None:
        self.size, self.broken, self.broken_records = size, set(broken), tuple(records)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Example:
        self.asked.append(index)
        if index in self.broken:
            raise PictureError(f"{index}.png is broken")
        return example(index)


class Counted:
    """A stream of `size` numbers an epoch, each epoch begun with another; rows are opened when called."""

    def __init__(self, size: int, broken: Collection[int] = ()) -> None:
        self.size, self.broken = size, set(broken)
        self.begun: list[int] = []
        self.opened = 0

    def rows(self, *, seed: int, epoch: int) -> Iterator[Callable[[], Example]]:
        self.begun.append(epoch)
        return (self.opener((seed + epoch + index) % self.size) for index in range(self.size))

    def opener(self, number: int) -> Callable[[], Example]:
        def opened() -> Example:
            self.opened += 1
            if number in self.broken:
                raise RecordError(f"row {number} is broken")
            return example(number)

        return opened


def reader(data: object, *, share: float = 0.5, batch: int = 4) -> Reader:
    return open_reader(data, batch=batch, seed=1, max_broken_share=share)


def read_all(found: Reader, passes: int) -> list[list[int]]:
    return [answers(found.seats(number)) for number in range(passes)]


def answers(seats: Sequence[Seat]) -> list[int]:
    return [int(seat.example.answer) for seat in seats]


def test_whole_data_is_seen_in_the_order_of_the_run() -> None:
    found = reader(Numbers(9))
    for number in range(5):
        seats = found.seats(number)
        assert answers(seats) == [seat.place for seat in seats]
        assert answers(seats) == places_of_pass(9, number=number, batch=4, seed=1)
    assert found.report(5) == found.figures(5) == {}


def test_the_next_good_one_takes_a_broken_ones_seat() -> None:
    order = [place for number in range(4) for place in places_of_pass(8, number=number, batch=4, seed=1)]
    broken = {order[1], order[2], order[7]}
    seen = answers(reader(Numbers(8, broken)).seats(0)) + answers(reader(Numbers(8, broken)).seats(1))
    after = next(place for place in order[8:] if place not in broken)
    assert seen == [order[0], order[3], order[3], order[3], *order[4:7], after]


def test_a_seat_depends_on_no_other_pass() -> None:
    broken = {0, 3, 5}
    whole = reader(Numbers(10, broken))
    seen = [answers(whole.seats(number)) for number in range(8)]
    for number in (7, 2, 5):
        assert answers(reader(Numbers(10, broken)).seats(number)) == seen[number]


def test_what_was_found_is_named_once_and_by_the_pass_it_was_read_for() -> None:
    source = Numbers(10, {2, 6})
    found = reader(source)
    for number in range(10):
        found.seats(number)
    assert source.asked.count(2) == source.asked.count(6) == 1, "a broken one is tried once"
    first = {place: next(n for n in range(10) if place in read_for(n)) for place in (2, 6)}
    assert {one.place: one.number for one in found.ledger.found(10)} == first
    earlier = min(first.values())
    assert found.ledger.found(earlier) == []
    assert found.figures(earlier) == found.report(earlier) == {}
    assert found.figures(10) == {"broken": 2}
    report = found.report(10)
    assert (report["broken_records"], report["broken_examples"]) == (0, 2)
    assert sorted(report["first_broken"]) == ["2.png is broken", "6.png is broken"]


def read_for(number: int) -> list[int]:
    return places_of_pass(10, number=number, batch=4, seed=1)


def test_a_resumed_run_skips_what_was_broken_when_it_began() -> None:
    """Also where the picture was mended in between: it ends as the unbroken run."""
    unbroken = reader(Numbers(10, {2, 6}))
    seen = [answers(unbroken.seats(number)) for number in range(10)]
    first = reader(Numbers(10, {2, 6}))
    for number in range(5):
        first.seats(number)
    resumed = reader(Numbers(10))
    resumed.ledger.restore(first.ledger.state(5))
    assert len(resumed.ledger.state(5)) == 2, "the test would prove nothing"
    assert [answers(resumed.seats(number)) for number in range(5, 10)] == seen[5:]
    assert resumed.report(10) == unbroken.report(10)


def test_too_many_broken_fail_and_are_named() -> None:
    found = reader(Numbers(20, range(3)), share=0.1)
    with pytest.raises(ConfigError) as caught:
        read_all(found, 5)
    assert caught.value.faults[0] == (
        "data: expected at most 10 % broken examples (max_broken_share), came 3 of 20; "
        "mend them, or allow more"
    )
    assert sorted(caught.value.faults[1:]) == [f"{place}.png is broken" for place in range(3)]


def test_as_many_as_the_share_are_no_fault_and_none_is_allowed_by_zero() -> None:
    found = reader(Numbers(20, range(2)), share=0.1)
    assert len(read_all(found, 20)) == 20
    with pytest.raises(ConfigError, match=r"at most 0 % broken examples .*came 1 of 20"):
        read_all(reader(Numbers(20, [7]), share=0.0), 5)


def test_a_source_that_is_all_broken_ends() -> None:
    with pytest.raises(ConfigError, match="came 20 of 20"):
        reader(Numbers(20, range(20)), share=0.99).seats(0)


def test_a_share_of_few_says_nothing_in_a_large_source() -> None:
    """Eleven of the first eleven are 1 % of 1,000; of 100,000 seen a share is one."""
    ledger = Ledger(max_share=0.01, size=1_000_000)
    for place in range(10):
        ledger.note(Broken(place, "", 0), seen=place + 1)
    with pytest.raises(ConfigError, match="came 11 of 1000"):
        ledger.note(Broken(10, "", 0), seen=11)
    later = Ledger(max_share=0.01, size=1_000_000)
    for place in range(1000):
        later.note(Broken(place, "", 0), seen=100_000)
    with pytest.raises(ConfigError, match="came 1001 of 100000"):
        later.note(Broken(1000, "", 0), seen=100_000)


def test_broken_records_use_up_the_share() -> None:
    found = reader(Numbers(18, [5], records=["line 1: x", "line 7: y"]), share=0.1)
    with pytest.raises(ConfigError, match=r"came 1 of 18; .* \(beside 2 of 20 records\)"):
        read_all(found, 5)
    assert reader(Numbers(18, records=["line 1: x"]), share=0.1).report(0)["broken_records"] == 1


def test_a_streams_examples_come_in_its_order_epoch_after_epoch() -> None:
    stream = Counted(5)
    found = reader(stream)
    assert [answers(found.seats(number)) for number in range(3)] == [
        [1, 2, 3, 4],
        [0, 2, 3, 4],
        [0, 1, 3, 4],
    ]
    assert stream.begun == [0, 1, 2]
    assert [seat.place for seat in found.seats(3)] == [12, 13, 14, 15]


def test_a_resumed_stream_skips_ahead_without_opening_rows() -> None:
    broken = {2, 3}
    unbroken = reader(Counted(7, broken))
    seen = [answers(unbroken.seats(number)) for number in range(6)]
    stream = Counted(7, broken)
    resumed = reader(stream)
    assert answers(resumed.seats(4)) == seen[4]
    assert stream.opened <= 6
    assert answers(resumed.seats(5)) == seen[5]
    assert answers(resumed.seats(1)) == seen[1], "an earlier pass begins the stream anew"


def test_a_broken_row_of_a_stream_gives_its_seat_to_the_next_good_one() -> None:
    assert answers(reader(Counted(8, {3, 4})).seats(0)) == [1, 2, 5, 5]


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ConfigError, match="data: expected rows, came an empty stream"):
        reader(Counted(0)).seats(0)


def test_a_mixs_parts_are_reported() -> None:
    found = reader(MixSource({"a": Numbers(3), "b": Numbers(9, [0])}), share=0.5)
    for number in range(6):
        found.seats(number)
    report = found.report(6)
    assert report["parts"] == {"a": 3, "b": 9}
    assert report["first_broken"] == ["0.png is broken"]
