"""Versions of one task: which serve, how a store's file says so, who is sent where."""

import json
import os
from pathlib import Path

import pytest

from prompts.errors import ReadOnlyStoreError, StoreError
from prompts.placing import find_bundle, put_bundle
from prompts.routing import ROUTING_FILE, Route, Routing, Share, change_route, pick_share, read_routing
from prompts.store import StoreReader, scan_store
from tests.prompts.sample import save_frame

A, B = "a" * 64, "b" * 64


def route_of(*shares: Share) -> Route:
    return Route(shares=shares)


def test_a_folder_with_the_mark_waits_until_it_is_activated(tmp_path: Path) -> None:
    one = save_frame(tmp_path / "lines", "lines")
    two = save_frame(tmp_path / "lines@2", "lines", scale=0.5)
    scan = scan_store(tmp_path)
    assert (scan.bundles["lines"].digest, scan.faults) == (one.digest, {})
    assert {each.digest for each in scan.versions["lines"]} == {one.digest, two.digest}
    change_route(tmp_path, "lines", lambda route: route_of(Share(digest=two.digest)))
    scan = scan_store(tmp_path)
    assert {slot: each.digest for slot, each in scan.bundles.items()} == {"lines": two.digest}
    assert find_bundle(tmp_path, "lines").digest == two.digest


def test_a_version_that_waits_takes_no_place_while_the_other_is_replaced(tmp_path: Path) -> None:
    save_frame(tmp_path / "lines", "lines")
    save_frame(tmp_path / "lines@2", "lines", scale=0.5)
    (tmp_path / "lines").rename(tmp_path / ".aside")
    scan = scan_store(tmp_path)
    assert (scan.bundles, scan.shares) == ({}, {})


def test_shares_have_slots_of_their_own_and_a_removed_task_none(tmp_path: Path) -> None:
    one = save_frame(tmp_path / "lines", "lines")
    two = save_frame(tmp_path / "lines@2", "lines", scale=0.5)
    shares = Share(digest=one.digest, weight=9), Share(digest=two.digest)
    change_route(tmp_path, "lines", lambda route: route_of(*shares))
    scan = scan_store(tmp_path)
    assert {slot: each.digest for slot, each in scan.bundles.items()} == {
        "lines": one.digest,
        f"lines@{two.digest[:16]}": two.digest,
    }
    assert scan.shares["lines"] == shares
    change_route(tmp_path, "lines", lambda route: route_of())
    scan = scan_store(tmp_path)
    assert (scan.bundles, scan.shares) == ({}, {"lines": ()})


def test_what_is_chosen_and_not_there_is_a_fault_and_nothing_else_takes_its_place(tmp_path: Path) -> None:
    save_frame(tmp_path / "lines", "lines")
    change_route(tmp_path, "lines", lambda route: route_of(Share(digest=A)))
    scan = scan_store(tmp_path)
    assert (scan.bundles, scan.undecided) == ({}, {"lines"})
    assert A in scan.faults[ROUTING_FILE].faults[0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "valid JSON"),
        ('{"format": 2}', "format"),
        ('{"tasks": {"Lines": {"shares": []}}}', "tasks"),
        (f'{{"tasks": {{"l": {{"shares": [{{"digest": "{A}", "weight": 0}}]}}}}}}', "weight"),
        (f'{{"tasks": {{"l": {{"shares": [{{"digest": "{A}"}}, {{"digest": "{A}"}}]}}}}}}', "once"),
        ('{"tasks": {}, "colour": 1}', "colour"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_and_changes_nothing(
    tmp_path: Path, text: str, named: str
) -> None:
    save_frame(tmp_path / "lines", "lines")
    two = save_frame(tmp_path / "lines@2", "lines", scale=0.5)
    change_route(tmp_path, "lines", lambda route: route_of(Share(digest=two.digest)))
    reader = StoreReader(tmp_path)
    assert reader.scan().bundles["lines"].digest == two.digest
    (tmp_path / ROUTING_FILE).write_text(text)
    scan = reader.scan()
    assert (scan.bundles["lines"].digest, list(scan.faults)) == (two.digest, [ROUTING_FILE])
    with pytest.raises(StoreError, match=named):
        read_routing(tmp_path)
    with pytest.raises(StoreError):
        change_route(tmp_path, "lines", lambda route: None)
    assert (tmp_path / ROUTING_FILE).read_text() == text


def test_where_it_was_never_read_nothing_serves_until_it_can_be(tmp_path: Path) -> None:
    save_frame(tmp_path / "lines", "lines")
    two = save_frame(tmp_path / "lines@2", "lines", scale=0.5)
    save_frame(tmp_path / "dots", "dots")
    change_route(tmp_path, "lines", lambda route: route_of(Share(digest=two.digest)))
    change_route(tmp_path, "dots", lambda route: route_of())
    good = (tmp_path / ROUTING_FILE).read_bytes()
    (tmp_path / ROUTING_FILE).write_bytes(good[:-9])
    reader = StoreReader(tmp_path)
    for _ in range(2):
        scan = reader.scan()
        assert (scan.bundles, scan.undecided) == ({}, {"lines", "dots"})
        assert "until then no task is served" in scan.faults[ROUTING_FILE].faults[-1]
    (tmp_path / ROUTING_FILE).write_bytes(good)
    scan = reader.scan()
    assert {slot: one.digest for slot, one in scan.bundles.items()} == {"lines": two.digest}
    assert scan.faults == {}


def test_a_faulty_file_is_not_parsed_again_before_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []

    def counted(folder: Path) -> Routing:
        looks.append(folder)
        return read_routing(folder)

    monkeypatch.setattr("prompts.store.read_routing", counted)
    (tmp_path / ROUTING_FILE).write_text("{")
    reader = StoreReader(tmp_path)
    first = reader.scan().faults[ROUTING_FILE].faults
    assert (reader.scan().faults[ROUTING_FILE].faults, len(looks)) == (first, 1)
    (tmp_path / ROUTING_FILE).write_text("{}")
    assert (reader.scan().faults, len(looks)) == ({}, 2)


def test_of_very_many_faults_the_first_are_told(tmp_path: Path) -> None:
    (tmp_path / ROUTING_FILE).write_text(json.dumps({"tasks": {f"t{number}": 1 for number in range(5000)}}))
    with pytest.raises(StoreError, match="4900 more faults") as caught:
        read_routing(tmp_path)
    assert len(str(caught.value)) < 20_000


def test_a_pipe_in_its_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "routing.json")
    with pytest.raises(StoreError, match=r"routing\.json"):
        read_routing(tmp_path)


def test_a_change_is_whole_or_not_at_all(tmp_path: Path) -> None:
    change_route(tmp_path, "lines", lambda route: route_of(Share(digest=A)))
    before = (tmp_path / ROUTING_FILE).read_bytes()

    def fail(route: Route | None) -> Route:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        change_route(tmp_path, "lines", fail)
    assert (tmp_path / ROUTING_FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".routing.lock", ROUTING_FILE]
    change_route(tmp_path, "lines", lambda route: None)
    assert json.loads((tmp_path / ROUTING_FILE).read_text())["tasks"] == {}


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / ".routing.lock").mkdir()
    with pytest.raises(ReadOnlyStoreError, match="can be written"):
        change_route(tmp_path, "lines", lambda route: route_of())


def test_what_served_before_is_kept_and_not_for_ever() -> None:
    route = route_of(Share(digest=A))
    for _ in range(40):
        route = route.turned_to([Share(digest=B)]).turned_to([Share(digest=A)])
    assert (route.before[-1], len(route.before)) == ((Share(digest=B),), 16)


def test_traffic_is_split_by_weight_and_the_same_client_stays() -> None:
    shares = Share(digest=A, weight=9), Share(digest=B, weight=1)
    picked = [pick_share("lines", shares, f"user-{number}").digest for number in range(4000)]
    assert picked == [pick_share("lines", shares, f"user-{number}").digest for number in range(4000)]
    assert 300 < picked.count(B) < 500
    shifted = Share(digest=A, weight=8), Share(digest=B, weight=2)
    again = [pick_share("lines", shifted, f"user-{number}").digest for number in range(4000)]
    moved = [(was, now) for was, now in zip(picked, again, strict=True) if was != now]
    assert set(moved) == {(A, B)}
    assert picked != [pick_share("other", shares, f"user-{number}").digest for number in range(4000)]


def test_who_falls_where_is_pinned() -> None:
    """Replicas of other releases have to agree: first 8 bytes of sha256("lines\\0ann"), over 2^64."""
    import hashlib

    part = int.from_bytes(hashlib.sha256(b"lines\0ann").digest()[:8]) / 2**64
    below, above = round(part * 1000) - 5, round(part * 1000) + 5
    for weight, digest in ((below, B), (above, A)):
        shares = Share(digest=A, weight=weight), Share(digest=B, weight=1000 - weight)
        assert pick_share("lines", shares, "ann").digest == digest


def test_put_keeps_the_traffic_of_what_it_replaces(tmp_path: Path) -> None:
    new = save_frame(tmp_path / "new", "lines", scale=0.7)
    store = tmp_path / "store"
    one = save_frame(store / "lines", "lines")
    two = save_frame(store / "lines@2", "lines", scale=0.5)
    shares = Share(digest=one.digest, weight=9), Share(digest=two.digest)
    change_route(store, "lines", lambda route: route_of(*shares))
    put_bundle(store, new, "lines")
    served = {each.digest: each.weight for each in scan_store(store).shares["lines"]}
    assert served == {new.digest: 9, two.digest: 1}
    change_route(store, "lines", lambda route: route_of())
    put_bundle(store, one, "lines")
    assert scan_store(store).bundles["lines"].digest == one.digest


def test_put_beside_changes_nothing_of_what_serves(tmp_path: Path) -> None:
    new = save_frame(tmp_path / "new", "other", scale=0.7)
    store = tmp_path / "store"
    one = save_frame(store / "lines", "lines")
    placed = put_bundle(store, new, "lines", beside=True)
    assert placed.path == store / f"lines@{new.digest[:12]}"
    scan = scan_store(store)
    assert (scan.bundles["lines"].digest, len(scan.versions["lines"])) == (one.digest, 2)


def test_changes_of_two_processes_are_both_kept(tmp_path: Path) -> None:
    child = os.fork()
    names = [f"{'child' if child == 0 else 'parent'}-{number}" for number in range(20)]
    for name in names:
        change_route(tmp_path, name, lambda route: route_of(Share(digest=A)))
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(read_routing(tmp_path).tasks) == 40
