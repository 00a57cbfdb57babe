"""The store: good bundles are served, bad ones listed, doubles refused."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from prompts.errors import StoreError
from prompts.store import StoreReader, scan_store
from tests.prompts.sample import edit_json, save_frame, save_whole


def test_good_bundles_are_found_by_their_own_names(tmp_path: Path) -> None:
    one = save_whole(tmp_path / "folder-1")
    two = save_frame(tmp_path / "folder-2", "lines")
    scan = scan_store(tmp_path)
    assert {name: bundle.digest for name, bundle in scan.bundles.items()} == {
        "whole": one.digest,
        "lines": two.digest,
    }
    assert scan.bundles["lines"].path == tmp_path / "folder-2"
    assert scan.faults == {}


def test_a_bad_bundle_keeps_no_other_from_being_served(tmp_path: Path) -> None:
    save_frame(tmp_path / "good", "good")
    save_frame(tmp_path / "bad", "bad")
    edit_json(tmp_path / "bad", lambda raw: raw.update(colour=1))
    (tmp_path / "empty").mkdir()
    scan = scan_store(tmp_path)
    assert list(scan.bundles) == ["good"]
    assert sorted(scan.faults) == ["bad", "empty"]
    assert scan.faults["bad"].faults[0].startswith("bundle.json: colour")


def test_bundles_of_one_name_are_all_refused(tmp_path: Path) -> None:
    save_frame(tmp_path / "a", "lines")
    save_frame(tmp_path / "b", "lines", scale=0.5)
    save_frame(tmp_path / "c", "other")
    scan = scan_store(tmp_path)
    assert list(scan.bundles) == ["other"]
    assert sorted(scan.faults) == ["a", "b"]
    assert "came 'lines' in a, b" in scan.faults["b"].faults[0]


def test_what_is_no_bundles_folder_is_passed_over(tmp_path: Path) -> None:
    save_frame(tmp_path / "task", "task")
    save_frame(tmp_path / ".task.12ab.new", "draft")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README.md").write_text("tasks of the demo")
    scan = scan_store(tmp_path)
    assert list(scan.bundles) == ["task"]
    assert scan.faults == {}


def test_a_link_may_not_leave_the_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    save_frame(store / "releases" / "7", "inside")
    save_frame(tmp_path / "outside", "outside")
    (store / "current").symlink_to("releases/7")
    (store / "foreign").symlink_to(tmp_path / "outside")
    (store / "circle").symlink_to("circle")
    scan = scan_store(store)
    assert list(scan.bundles) == ["inside"]
    assert sorted(scan.faults) == ["circle", "foreign", "releases"]
    assert "came a link that leaves it" in scan.faults["foreign"].faults[0]


def test_an_empty_store_is_empty(tmp_path: Path) -> None:
    scan = scan_store(tmp_path)
    assert scan.bundles == {}
    assert scan.faults == {}


def test_a_store_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(StoreError, match="tasks: expected a folder of bundles"):
            scan_store(path)


def test_a_reader_reads_again_only_what_changed(tmp_path: Path) -> None:
    save_frame(tmp_path / "same", "same")
    save_frame(tmp_path / "other", "other")
    reader = StoreReader(tmp_path)
    before = reader.scan()
    save_frame(tmp_path / "other", "other", scale=0.5)
    after = reader.scan()
    assert after.bundles["same"] is before.bundles["same"]
    assert after.bundles["other"].digest != before.bundles["other"].digest


def test_a_reader_sees_what_comes_goes_and_is_mended(tmp_path: Path) -> None:
    save_frame(tmp_path / "goes", "goes")
    save_frame(tmp_path / "mended", "mended")
    edit_json(tmp_path / "mended", lambda raw: raw.update(colour=1))
    reader = StoreReader(tmp_path)
    first = reader.scan()
    assert (list(first.bundles), list(first.faults)) == (["goes"], ["mended"])
    assert reader.scan().faults["mended"].faults == first.faults["mended"].faults
    shutil.rmtree(tmp_path / "goes")
    edit_json(tmp_path / "mended", lambda raw: raw.pop("colour"))
    save_frame(tmp_path / "comes", "comes")
    second = reader.scan()
    assert (list(second.bundles), list(second.faults)) == (["comes", "mended"], [])


def test_a_link_that_is_turned_to_another_release_is_seen(tmp_path: Path) -> None:
    for number, scale in ((1, 1.0), (2, 0.5)):
        save_frame(tmp_path / ".releases" / str(number), "task", scale=scale)
    (tmp_path / "current").symlink_to(".releases/1")
    reader = StoreReader(tmp_path)
    before = reader.scan().bundles["task"].digest
    (tmp_path / ".next").symlink_to(".releases/2")
    (tmp_path / ".next").replace(tmp_path / "current")
    assert reader.scan().bundles["task"].digest != before


def test_an_odd_entry_keeps_no_bundle_from_being_served(tmp_path: Path) -> None:
    save_frame(tmp_path / "good", "good")
    (tmp_path / "long").symlink_to("x" * 300)
    (tmp_path / os.fsdecode(b"not-\xff-utf8")).mkdir()
    scan = scan_store(tmp_path)
    assert list(scan.bundles) == ["good"]
    assert sorted(scan.faults) == ["long", "not-\\udcff-utf8"]
    assert all(entry.encode() for entry in scan.faults)


def test_what_could_not_be_read_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_frame(tmp_path / "good", "good")
    reader = StoreReader(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("builtins.open", _raise_too_many_files)
        assert list(reader.scan().faults) == ["good", "routing.json"]
    assert list(reader.scan().bundles) == ["good"]


def _raise_too_many_files(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")
