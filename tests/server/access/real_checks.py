"""Keys on the real server, which another module has started."""

import socket
from itertools import pairwise

import httpx
import pytest

from tests.server.real_asking import CHAT, code_of, ids, question


def cached_by_key(admin: httpx.Client, task: str | None, keys: list[str]) -> list[float]:
    """Ask the same long question with each key; returns the tokens that the engine had cached for each.

    A CPU caches blocks of 128 tokens.
    """
    asked = question(f"{task} " + "hello there, how are you today? " * 30, task=task)
    name = f'passepartout_task_tokens_total{{kind="cached",task="{task or "_base"}"}} '

    def cached() -> float:
        lines = admin.get("/metrics").text.splitlines()
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    found = [cached()]
    for key in keys:
        ids(admin.post(CHAT, json=asked, headers={"Authorization": f"Bearer key-of-{key}"}))
        found.append(cached())
    return [after - before for before, after in pairwise(found)]


def require_a_user_to_be_one(url: str, key: str) -> None:
    """A user's key opens no admin's route, by no spelling, and no address of a picture is asked."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer key-of-{key}"}) as user,
    ):
        distant = f"http://127.0.0.1:{listening.getsockname()[1]}/a.png"
        parts = {
            kind: {"type": kind, kind: {"url": distant}} for kind in ("image_url", "video_url", "audio_url")
        }
        answers = {kind: user.post(CHAT, json=question([part])) for kind, part in parts.items()}
        assert {kind: answer.status_code for kind, answer in answers.items()} == dict.fromkeys(parts, 400)
        assert answers["image_url"].json()["error"]["code"] == "picture_invalid"
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()
        for path in ("/collective_rpc", "/sleep", "/pause", "/update_weights", "/start_profile", "/metrics"):
            assert code_of(user.post(path)) == (403, "forbidden")
        for path in ("/v1/models/", "//v1/models", "/v1%2Fmodels", "/metricsx"):
            assert code_of(user.get(path)) == (404, "route_not_found")
        assert code_of(user.post(CHAT, json=question(cache_salt="x"))) == (403, "forbidden")
        assert code_of(httpx.post(f"{url}/invocations", json=question())) == (401, "invalid_api_key")
