"""The file of keys: every fault at once, found by hash, followed as it changes; the command for one."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
import yaml
from starlette.datastructures import Headers

from prompts.errors import ConfigError, InvalidKeyError
from server.access.book import KeyBook, carried_key
from server.access.command import main
from server.access.keys import hash_key, load_keys, new_key

SECRET = b"a secret of the tests"


def write(file: Path, *entries: dict[str, object]) -> Path:
    file.write_text(yaml.safe_dump({"keys": list(entries)}))
    return file


def entry(name: str, key: str | None = None, **more: object) -> dict[str, object]:
    return {"name": name, "sha256": hash_key(key or f"key-of-{name}"), **more}


def read(file: Path) -> KeyBook:
    return KeyBook.read(file, secret=SECRET, clock=lambda: 0.0)


def test_every_fault_of_the_file_is_listed(tmp_path: Path) -> None:
    file = write(
        tmp_path / "keys.yaml",
        {"name": "a b", "sha256": "short", "surprise": 1},
        {"name": "b", "sha256": [], "admin": "yes", "requests_per_minute": 0},
        {"sha256": hash_key("x"), "tasks": ["Not A Name"], "allow": ["everything"]},
    )
    with pytest.raises(ConfigError) as caught:
        load_keys(file)
    text = "\n".join(caught.value.faults)
    for field in (
        *("keys.0.name", "keys.0.sha256", "keys.0.surprise"),
        *("keys.1.sha256", "keys.1.admin", "keys.1.requests_per_minute"),
        *("keys.2.name", "keys.2.tasks.0", "keys.2.allow.0"),
    ):
        assert field in text
    assert str(tmp_path) not in str(caught.value)


def test_names_and_hashes_stand_once(tmp_path: Path) -> None:
    same = entry("a", "one"), entry("a", "two"), entry("b", "one", tasks=["*", "category"])
    with pytest.raises(ConfigError) as caught:
        load_keys(write(tmp_path / "keys.yaml", *same))
    assert [one.partition(":")[0] for one in caught.value.faults] == [
        "keys.name",
        "keys.sha256",
        "keys.b.tasks",
    ]
    assert "came one of a, b" in caught.value.faults[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys: [", "expected YAML"),
        ("keys:\n  - name: a\n    name: b\n", "the key name twice"),
        ("keys: []", "keys"),
        ("", "(top level)"),
        ("!!python/object/apply:os.getcwd []", "expected YAML"),
        ("\udcff", "expected YAML"),
    ],
)
def test_what_is_no_file_of_keys_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError) as caught:
        load_keys(file)
    assert said in str(caught.value)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        load_keys(tmp_path / "nosuch.yaml")
    assert str(tmp_path) not in str(caught.value)


def test_a_key_is_found_and_another_is_not(tmp_path: Path) -> None:
    book = read(write(tmp_path / "keys.yaml", entry("a", tasks=["category"]), entry("b", admin=True)))
    assert book.find("key-of-a").tasks == {"category"}
    assert book.find("key-of-b").admin
    for key in ("", "key-of-c", hash_key("key-of-a"), "key-of-a "):
        with pytest.raises(InvalidKeyError):
            book.find(key)


def test_two_keys_hold_while_one_is_exchanged(tmp_path: Path) -> None:
    both = entry("a") | {"sha256": [hash_key("old"), hash_key("new")]}
    book = read(write(tmp_path / "keys.yaml", both))
    assert book.find("old") == book.find("new")
    assert book.account(book.find("old")) is book.account(book.find("new"))


def test_groups_share_a_salt_and_others_do_not(tmp_path: Path) -> None:
    entries = [entry("a", cache_group="g"), entry("b", cache_group="g"), entry("c"), entry("g"), entry("d")]
    file = write(tmp_path / "keys.yaml", *entries)
    book = read(file)
    salts = {name: book.find(f"key-of-{name}").cache_salt for name in "abcdg"}
    assert salts["a"] == salts["b"]
    assert len(set(salts.values())) == 4  # `g` the name is not `g` the group
    other = KeyBook.read(file, secret=b"another", clock=lambda: 0.0)
    assert other.find("key-of-a").cache_salt != salts["a"]
    assert read(file).find("key-of-a").cache_salt == salts["a"]


def test_a_clients_own_salt_never_leads_out_of_its_part(tmp_path: Path) -> None:
    book = read(write(tmp_path / "keys.yaml", entry("a"), entry("b")))
    a, b = book.find("key-of-a"), book.find("key-of-b")
    assert a.salt_for(None) == a.salt_for("") == a.cache_salt
    salts = {a.salt_for("x"), a.salt_for("y"), a.salt_for(b.cache_salt), b.salt_for("x"), b.salt_for(None)}
    assert len(salts | {a.cache_salt}) == 6


def test_a_changed_file_is_followed_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "keys.yaml", entry("a", requests_per_minute=5))
    book = read(file)
    account = book.account(book.find("key-of-a"))
    file.write_text("keys: [")
    with caplog.at_level(logging.ERROR, logger="vllm.passepartout"):
        asyncio.run(book.look())
        asyncio.run(book.look())
    assert book.faults
    assert book.find("key-of-a").name == "a"
    assert len(caplog.messages) == 1
    write(file, entry("a", "changed", requests_per_minute=9))
    asyncio.run(book.look())
    assert book.faults == []
    assert book.account(book.find("changed")) is account
    assert account.headers()["x-ratelimit-limit-requests"] == "9"
    with pytest.raises(InvalidKeyError):
        book.find("key-of-a")


def test_a_file_that_is_exchanged_whole_is_seen_by_its_number(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.yaml", entry("a"))
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    book = read(file)
    other = write(tmp_path / "other.yaml", entry("b"))
    os.utime(other, ns=times)
    other.rename(file)
    asyncio.run(book.look())
    assert book.find("key-of-b").name == "b"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([("Authorization", "Bearer k")], "k"),
        ([("authorization", "bearer  k ")], "k"),
        ([("X-API-Key", "k")], "k"),
        ([("X-API-Key", "k"), ("Authorization", "Bearer k")], "k"),
    ],
)
def test_a_key_comes_in_openais_header_or_anthropics(headers: list[tuple[str, str]], key: str | None) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    assert carried_key(Headers(raw=raw)) == key


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Basic k")],
        [("Authorization", "k")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer k"), ("Authorization", "Bearer l")],
        [("Authorization", "Bearer k"), ("X-API-Key", "l")],
    ],
)
def test_a_key_that_is_in_doubt_is_none(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidKeyError):
        carried_key(Headers(raw=[(a.lower().encode(), b.encode()) for a, b in headers]))


def test_the_command_prints_a_key_once_and_an_entry_that_finds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "team-a", "--task", "category", "--base"]) == 0
    said = capsys.readouterr()
    key = next(line.strip() for line in said.err.splitlines() if line.startswith("    "))
    assert key not in said.out
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n{said.out}")
    caller = read(file).find(key)
    assert (caller.name, caller.admin, caller.base, caller.tasks) == ("team-a", False, True, {"category"})
    with pytest.raises(ConfigError, match="name"):
        main(["new", "two words"])


def test_keys_are_long_and_never_the_same() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) > 40
