"""Our own routes: tasks, previews, models, readiness."""

import asyncio
import io
import logging
from pathlib import Path

import httpx
import pytest
from PIL import Image

from prompts.errors import EngineError, StoreError
from server.app import start
from server.config import ServeConfig
from tests.server.conftest import Site, save_text
from tests.server.fake import FakeLoader, FakeServer, make_server

NAMES = ["classes", "framed", "plain", "renamed", "spoken"]


def get(server: FakeServer, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_tasks_are_listed_by_name(site: Site) -> None:
    listed = site.client.get("/v1/tasks").json()
    assert listed["object"] == "list"
    assert [task["id"] for task in listed["data"]] == NAMES


def test_a_task_is_shown_whole_but_for_where_it_was_made(site: Site) -> None:
    response = site.client.get("/v1/tasks/classes")
    shown = response.json()
    assert (
        shown["digest"] == response.headers["X-Task-Digest"] == site.server.service.tasks.digests()["classes"]
    )
    assert shown["usage"]["choices"] == ["cat", "dog"]
    assert shown["text"] == {"layers": 2, "length": 3, "hidden": 4}
    assert shown["on_device"] is True
    assert "config" not in shown["provenance"]
    assert "data" not in shown["provenance"]


@pytest.mark.parametrize("path", ["/v1/tasks/nosuch", "/v1/tasks/broken", "/v1/tasks/nosuch/preview.png"])
def test_an_unknown_task_is_404(site: Site, path: str) -> None:
    response = site.client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "task_not_found")


def test_the_preview_is_the_frame(site: Site) -> None:
    response = site.client.get("/v1/tasks/framed/preview.png")
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["X-Task"] == "framed"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (20, 16)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_task_without_a_frame_has_no_preview(site: Site) -> None:
    response = site.client.get("/v1/tasks/plain/preview.png")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "task_has_no_frame")


def test_models_are_the_base_and_one_a_task(site: Site) -> None:
    models = site.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["base", *(f"base:{name}" for name in NAMES)]
    assert {model["parent"] for model in models[1:]} == {"base"}
    assert models[0]["parent"] is None


def test_ready_lists_what_serves_and_each_fault_of_what_does_not(site: Site) -> None:
    response = site.client.get("/ready")
    body = response.json()
    assert (response.status_code, body["status"], body["model"]) == (200, "degraded", "base")
    assert list(body["tasks"]) == NAMES
    refused = {one["bundle"]: one["faults"] for one in body["refused"]}
    assert set(refused) == {"broken", "homeless"}
    assert "surprise" in refused["broken"][0]
    assert refused["homeless"] == ["no room for 3 text rows"]


def test_ready_is_503_before_the_tasks_are_loaded() -> None:
    response = get(make_server(), "/ready")
    assert (response.status_code, response.json()["status"]) == (503, "starting")


def test_ready_is_503_when_the_engine_is_dead_and_ready_when_all_is_well(tmp_path: Path) -> None:
    server = make_server()
    save_text(tmp_path / "plain", "plain")
    asyncio.run(start(server.service, ServeConfig(tasks=tmp_path), base_names=("m",), loader=FakeLoader()))
    response = get(server, "/ready")
    assert (response.status_code, response.json()["status"]) == (503, "engine_down")

    async def healthy() -> bool:
        return True

    server.service.engine_is_healthy = healthy
    response = get(server, "/ready")
    assert (response.status_code, response.json()["status"], response.json()["refused"]) == (200, "ready", [])


def test_ready_is_503_when_every_bundle_is_refused(tmp_path: Path) -> None:
    server = make_server()
    save_text(tmp_path / "plain", "plain")
    (tmp_path / "plain" / "bundle.json").write_text("{}")
    asyncio.run(start(server.service, ServeConfig(tasks=tmp_path), base_names=("m",), loader=FakeLoader()))

    async def healthy() -> bool:
        return True

    server.service.engine_is_healthy = healthy
    response = get(server, "/ready")
    assert (response.status_code, response.json()["status"]) == (503, "no_tasks")
    assert [one["bundle"] for one in response.json()["refused"]] == ["plain"]


def test_every_bad_bundle_is_logged_with_each_fault(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vllm.passepartout"):
        asyncio.run(
            start(make_server().service, ServeConfig(tasks=store), base_names=("m",), loader=FakeLoader())
        )
    assert any("broken" in line and "surprise" in line for line in caplog.messages)


def test_what_the_engine_says_of_a_failure_stays_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    save_text(tmp_path / "plain", "plain")
    loader = FakeLoader(refuses={"plain": EngineError("<Worker object at 0x7f> /home/me/x")})
    asyncio.run(start(server.service, ServeConfig(tasks=tmp_path), base_names=("m",), loader=loader))
    assert "0x7f" not in get(server, "/ready").text
    assert "0x7f" in caplog.text


def test_a_store_that_went_away_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    config = ServeConfig(tasks=folder)
    folder.rmdir()
    with pytest.raises(StoreError):
        asyncio.run(start(make_server().service, config, base_names=("m",), loader=FakeLoader()))
