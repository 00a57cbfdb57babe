"""From the options to who is let in: what is filled at the start, followed, and told in the docs."""

import asyncio
import contextlib
import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers

from prompts.errors import InvalidKeyError, OverloadedError
from server.access.access import Access
from server.access.keys import load_keys
from server.app import fill_access, follow_keys
from server.config import ServeConfig
from tests.server.access.test_keys import entry, read, write

DOCS = Path(__file__).resolve().parents[3] / "docs" / "access.md"


def filled(config: ServeConfig, *, front_ends: int = 1, api_key: list[str] | None = None) -> Access:
    access = Access()
    args = Namespace(api_server_count=front_ends, data_parallel_size=1, api_key=api_key)
    fill_access(access, config, args, SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=8)))
    return access


def test_the_options_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSEPARTOUT_CACHE_SECRET", "of the test, as long as a secret should be")
    keys = write(tmp_path / "keys.yaml", entry("a"))
    access = filled(
        ServeConfig(tasks=tmp_path, keys=keys, max_body_mb=3, max_bodies_mb=4, max_queued=1), front_ends=4
    )
    assert access.max_body_mb == 3
    with access.bodies.share() as take, pytest.raises(OverloadedError):
        take(4_000_001)
    assert access.book is not None
    assert access.book.find("key-of-a").name == "a"
    with access.gate.entered(), access.gate.entered(), access.gate.entered(), pytest.raises(OverloadedError):
        access.gate.require_room()  # a fourth of the engine's eight, and one that waits


def test_vllms_keys_are_taken_where_there_is_no_file(tmp_path: Path) -> None:
    access = filled(ServeConfig(tasks=tmp_path, allow_fields="uuid"), api_key=["theirs"])
    assert (access.book, access.open_fields) == (None, {"uuid"})
    access.open_keys.require(Headers({"Authorization": "Bearer theirs"}))
    with pytest.raises(InvalidKeyError):
        access.open_keys.require(Headers({"Authorization": "Bearer others"}))


def test_the_file_is_followed_whatever_happens(tmp_path: Path) -> None:
    book = read(write(tmp_path / "keys.yaml", entry("a")))
    own_look, looks = book.look, []

    async def look() -> None:
        looks.append(1)
        if len(looks) == 1:
            raise RuntimeError("the disk is on fire")
        await own_look()

    book.look = look  # type: ignore[method-assign]

    def knows(key: str) -> bool:
        with contextlib.suppress(InvalidKeyError):
            return bool(book.find(key))
        return False

    async def follow() -> None:
        following = asyncio.create_task(follow_keys(book, seconds=0.001))
        write(tmp_path / "keys.yaml", entry("longer-name"))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if knows("key-of-longer-name"):
                break
        following.cancel()

    asyncio.run(follow())
    assert len(looks) > 1
    assert knows("key-of-longer-name")
    assert not knows("key-of-a")


def test_the_file_of_the_docs_is_one(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert block is not None
    file = tmp_path / "keys.yaml"
    file.write_text(block[1])
    assert [one.name for one in load_keys(file)] == ["ops", "shop", "prometheus"]
