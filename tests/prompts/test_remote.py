"""Stores elsewhere: only what changed comes, whole and as pinned; what is away changes nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from passepartout import main
from prompts.errors import ConfigError, SourceError
from prompts.remote import Source
from prompts.remote_files import push_bundle
from prompts.remote_lock import Lock
from prompts.routing import MAX_ROUTING_BYTES, Share, change_route
from prompts.store import scan_store
from tests.prompts.sample import save_frame

SHOP = "memory://shop/tasks"


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, which all of a process share."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_what_is_pushed_comes_and_only_once(tmp_path: Path) -> None:
    one = save_frame(tmp_path / "made", "lines")
    assert push_bundle(tmp_path / "made", SHOP) == f"{SHOP}/lines"
    source, store = Source(SHOP), tmp_path / "store"
    said: list[str] = []
    report = source.sync(store, progress=said.append)
    assert (report.bundles, report.came, report.refused) == ({"lines": one.digest}, ["lines"], {})
    assert scan_store(store).bundles["lines"].digest == one.digest
    assert said[0].startswith("lines: ")
    again = source.sync(store, progress=said.append)
    assert (again.bundles, again.came, len(said)) == (report.bundles, [], 1)
    two = save_frame(tmp_path / "made", "lines", scale=0.5)
    push_bundle(tmp_path / "made", SHOP)
    assert source.sync(store).came == ["lines"]
    assert scan_store(store).bundles["lines"].digest == two.digest


def test_what_goes_at_the_source_goes_here_and_nothing_else(tmp_path: Path, memory: Any) -> None:
    for name in ("lines", "dots"):
        save_frame(tmp_path / name, name)
        push_bundle(tmp_path / name, SHOP)
    store = tmp_path / "store"
    save_frame(store / "own", "own")
    Source(SHOP).sync(store)
    memory.rm("/shop/tasks/dots", recursive=True)
    assert Source(SHOP).sync(store).went == ["dots"]
    assert sorted(scan_store(store).bundles) == ["lines", "own"]


def test_a_bundle_that_is_half_written_is_not_taken(tmp_path: Path, memory: Any) -> None:
    one = save_frame(tmp_path / "one", "lines")
    save_frame(tmp_path / "two", "lines", scale=0.5)
    push_bundle(tmp_path / "one", SHOP)
    store = tmp_path / "store"
    Source(SHOP).sync(store)
    memory.put_file(str(tmp_path / "two" / "tensors.safetensors"), "/shop/tasks/lines/tensors.safetensors")
    report = Source(SHOP).sync(store)
    assert "digest (source)" in report.refused["lines"][0]
    assert report.bundles == {"lines": one.digest}
    assert scan_store(store).bundles["lines"].digest == one.digest
    assert not [path for path in store.iterdir() if path.name.endswith(".new")]


def test_a_lock_lets_nothing_else_in(tmp_path: Path) -> None:
    one = save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    lock = Lock(bundles={"lines": one.digest})
    store = tmp_path / "store"
    assert Source(SHOP).sync(store, lock=lock).bundles == {"lines": one.digest}
    for name in ("lines", "dots"):
        save_frame(tmp_path / "two", name, scale=0.5)
        push_bundle(tmp_path / "two", SHOP)
    report = Source(SHOP).sync(store, lock=lock)
    assert (list(report.refused), report.unnamed) == (["lines"], ["dots"])
    assert scan_store(store).bundles["lines"].digest == one.digest


def test_a_name_taken_out_of_the_lock_goes_also_while_the_source_is_away(tmp_path: Path) -> None:
    one, two = (save_frame(tmp_path / name, name) for name in ("lines", "dots"))
    for name in ("lines", "dots"):
        push_bundle(tmp_path / name, SHOP)
    store = tmp_path / "store"
    save_frame(store / "own", "own")
    Source(SHOP).sync(store, lock=Lock(bundles={"lines": one.digest, "dots": two.digest}))
    assert Source(SHOP).sync(store, lock=Lock(bundles={"lines": one.digest})).went == ["dots"]
    with pytest.raises(SourceError):
        Source("memory://nosuch").sync(store, lock=Lock())
    assert sorted(scan_store(store).bundles) == ["own"]


def test_a_source_that_is_away_changes_nothing(tmp_path: Path) -> None:
    class Away:
        def invalidate_cache(self) -> None:
            raise ConnectionError("no route")

    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    store = tmp_path / "store"
    Source(SHOP).sync(store)
    with pytest.raises(SourceError, match="no route"):
        Source(SHOP, filesystem=Away()).sync(store)
    assert list(scan_store(store).bundles) == ["lines"]


def test_the_sources_routing_is_followed_and_a_faulty_one_is_not(tmp_path: Path, memory: Any) -> None:
    one = save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    change_route(tmp_path, "lines", lambda route: None)
    from prompts.routing import Route

    change_route(tmp_path, "lines", lambda route: Route(shares=(Share(digest=one.digest, weight=7),)))
    memory.put_file(str(tmp_path / "routing.json"), "/shop/tasks/routing.json")
    store = tmp_path / "store"
    Source(SHOP).sync(store)
    assert scan_store(store).shares["lines"][0].weight == 7
    memory.pipe_file("/shop/tasks/routing.json", b"{")
    with pytest.raises(SourceError, match="JSON"):
        Source(SHOP).sync(store)
    assert scan_store(store).shares["lines"][0].weight == 7


def test_what_came_is_not_fetched_again_because_of_what_did_not(tmp_path: Path, memory: Any) -> None:
    save_frame(tmp_path / "one", "v1.lines")
    push_bundle(tmp_path / "one", SHOP)
    memory.pipe_file("/shop/tasks/routing.json", b"{")
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(SourceError, match="JSON"):
            Source(SHOP).sync(tmp_path / "store", progress=said.append)
    assert len(said) == 1
    assert said[0].startswith("v1.lines: ")


def test_names_that_have_no_place_here_keep_no_other_from_coming(tmp_path: Path, memory: Any) -> None:
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    for name in ("a" * 250, "routing.json"):
        memory.put(str(tmp_path / "one"), f"/shop/tasks/{name}", recursive=True)
    report = Source(SHOP).sync(tmp_path / "store")
    assert (report.came, list(report.refused)) == (["lines"], ["a" * 250])
    assert "too long" in report.refused["a" * 250][0]
    assert not (tmp_path / "store" / "routing.json").exists()


def test_files_beside_the_bundles_are_fetched_only_where_they_are_small(tmp_path: Path, memory: Any) -> None:
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    memory.pipe_file("/shop/tasks/.lines.digest", b"0" * 5000)
    memory.pipe_file("/shop/tasks/routing.json", b" " * (MAX_ROUTING_BYTES + 1))
    fetched: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        def open(self, place: str, mode: str) -> Any:
            fetched.append(place)
            return memory.open(place, mode)

    source = Source(SHOP, filesystem=Watched())
    with pytest.raises(SourceError, match=r"routing\.json: expected at most"):
        source.sync(tmp_path / "store")
    memory.rm("/shop/tasks/routing.json")
    assert "at most 4096 bytes" in source.sync(tmp_path / "store").refused["lines"][0]
    assert fetched == []


class Shut:
    """The file system in memory, some of whose places nobody may read. `opened`: what was read."""

    def __init__(self, memory: Any, *shut: str) -> None:
        self._memory, self.shut = memory, set(shut)
        self.opened: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def open(self, place: str, mode: str) -> Any:
        self.opened.append(place)
        if place in self.shut:
            raise PermissionError("403")
        return self._memory.open(place, mode)

    def ls(self, place: str, detail: bool) -> Any:
        if place in self.shut:
            raise PermissionError("403")
        return self._memory.ls(place, detail=detail)


@pytest.mark.parametrize("shut", ["/shop/tasks/dots", "/shop/tasks/dots/tensors.safetensors"])
def test_what_cannot_be_read_keeps_no_other_from_coming(tmp_path: Path, memory: Any, shut: str) -> None:
    for name in ("dots", "lines"):
        save_frame(tmp_path / name, name)
        push_bundle(tmp_path / name, SHOP)
    store, fs = tmp_path / "store", Shut(memory, shut)
    report = Source(SHOP, filesystem=fs).sync(store)
    assert (report.came, list(report.refused)) == (["lines"], ["dots"])
    assert "403" in report.refused["dots"][0]
    fs.shut.clear()
    assert Source(SHOP, filesystem=fs).sync(store).came == ["dots"]
    save_frame(tmp_path / "dots", "dots", scale=0.5)
    push_bundle(tmp_path / "dots", SHOP)
    fs.shut.add(shut)
    report = Source(SHOP, filesystem=fs).sync(store)
    assert (report.went, sorted(report.bundles), list(report.refused)) == ([], ["dots", "lines"], ["dots"])
    assert sorted(scan_store(store).bundles) == ["dots", "lines"]


def test_more_than_the_listing_says_is_not_taken(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lying(Shut):
        def ls(self, place: str, detail: bool) -> Any:
            return [one | {"size": 1} for one in memory.ls(place, detail=detail)]

    monkeypatch.setattr("prompts.remote._MAX_BYTES", 2000)
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    source, store = Source(SHOP, filesystem=Lying(memory)), tmp_path / "store"
    assert "at most 2,000 bytes" in source.sync(store).refused["lines"][0]
    assert not list(store.glob("*lines*"))


def test_a_routing_that_never_came_whole_has_nothing_served(tmp_path: Path, memory: Any) -> None:
    one = save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    memory.pipe_file("/shop/tasks/routing.json", b"{")
    fs, store = Shut(memory), tmp_path / "store"
    source = Source(SHOP, filesystem=fs)
    for _ in range(2):
        with pytest.raises(SourceError, match="JSON"):
            source.sync(store)
        assert (scan_store(store).bundles, scan_store(store).undecided) == ({}, {"lines"})
    assert fs.opened.count("/shop/tasks/routing.json") == 1
    memory.rm("/shop/tasks/routing.json")
    source.sync(store)
    assert scan_store(store).bundles["lines"].digest == one.digest


def test_a_state_that_is_none_is_begun_anew(tmp_path: Path) -> None:
    save_frame(tmp_path / "one", "lines")
    push_bundle(tmp_path / "one", SHOP)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".source.json").write_text("[]")
    assert Source(SHOP).sync(tmp_path / "store").came == ["lines"]


def test_an_address_that_cannot_be_opened_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(SourceError, match=r"pip install 'passepartout-serve\[s3\]'"):
        Source("s3://bucket/tasks")
    with pytest.raises(SourceError, match="hf://"):
        Source("nosuch://bucket")


def test_the_hub_is_one_of_fsspecs(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    assert fsspec.get_filesystem_class("hf").__name__ == huggingface_hub.HfFileSystem.__name__


def test_pull_and_push_are_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = save_frame(tmp_path / "one", "lines")
    shop, lock = f"file://{tmp_path}/shop", str(tmp_path / "tasks.lock.json")
    assert main(["task", "push", str(tmp_path / "one"), shop]) == 0
    assert main(["task", "pull", shop, str(tmp_path / "store"), "--lock", lock]) == 0
    told = capsys.readouterr()
    assert told.out == f"{shop}/lines\nlines {one.digest}\n"
    assert "tensors.safetensors: " in told.err
    assert Lock.read(Path(lock)).bundles == {"lines": one.digest}
    save_frame(tmp_path / "two", "lines", scale=0.5)
    assert main(["task", "push", str(tmp_path / "two"), shop]) == 0
    assert main(["task", "pull", shop, str(tmp_path / "store"), "--locked", lock]) == 2
    assert f"expected {one.digest}" in capsys.readouterr().err
    assert scan_store(tmp_path / "store").bundles["lines"].digest == one.digest


def test_push_says_what_it_replaces_or_puts_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], memory: Any
) -> None:
    one = save_frame(tmp_path / "one", "lines")
    two = save_frame(tmp_path / "two", "lines", scale=0.5)

    def push(made: str, *options: str) -> tuple[str, str]:
        assert main(["task", "push", str(tmp_path / made), SHOP, *options]) == 0
        told = capsys.readouterr()
        return told.out, told.err

    assert "replaces" not in push("one")[1] + push("one")[1]
    assert push("two", "--beside")[0] == f"{SHOP}/lines@{two.digest[:12]}\n"
    store = tmp_path / "store"
    assert sorted(Source(SHOP).sync(store).came) == ["lines", f"lines@{two.digest[:12]}"]
    scan = scan_store(store)
    assert (scan.bundles["lines"].digest, len(scan.versions["lines"])) == (one.digest, 2)
    assert f"lines: replaces the version {one.digest}" in push("two")[1]
    memory.rm("/shop/tasks/.lines.digest")
    assert "lines: replaces what was there" in push("one")[1]


def test_a_lock_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"bundles": {"lines": "abc"}}')
    with pytest.raises(ConfigError, match="lines"):
        Lock.read(tmp_path / "lock")
    with pytest.raises(ConfigError, match="pull --lock"):
        Lock.read(tmp_path / "none")
