"""The tasks API: versions activated, split, rolled back, removed; who did what is written down."""

import asyncio
import fcntl
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prompts.bundle import Bundle
from prompts.errors import BundleError
from prompts.frame import preview
from prompts.routing import Share, read_routing
from server.access.book import KeyBook
from server.app import start
from server.audit import open_audit
from server.config import ServeConfig
from server.task_changes import apply_shares
from tests.prompts.sample import save_frame
from tests.server.access.guarded import CHAT, QUESTION, code
from tests.server.access.test_keys import SECRET, entry, write
from tests.server.fake import FakeLoader, make_server, picture_url

KEYS = entry("boss", admin=True), entry("all", tasks=["*"], base=True), entry("none", base=True)
PICTURE = {"type": "image_url", "image_url": {"url": picture_url()}}
ASKED = {
    "messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "what?"}]}],
    "task": "lines",
}


class Desk:
    """A server with keys on a store of two versions of `lines`, the second of which waits."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.one = save_frame(self.store / "lines", "lines")
        self.two = save_frame(self.store / "lines@2", "lines", scale=0.5)
        self.audit_file = folder / "audit.jsonl"
        self.loader = FakeLoader()
        self.server = make_server()
        keys = write(folder / "keys.yaml", *KEYS)
        config = ServeConfig(tasks=self.store, keys=keys, audit_log=self.audit_file)
        access = self.server.service.access
        access.book = KeyBook.read(keys, secret=SECRET, clock=access.clock)
        self.server.service.tasks.drain_grace_seconds = 0.0
        asyncio.run(start(self.server.service, config, base_names=("base",), loader=self.loader))

    def ask(
        self, method: str, path: str, body: Any = None, *, by: str = "boss", **headers: str
    ) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.server.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                own = {"Authorization": f"Bearer key-of-{by}"} | sent
                answer = await client.request(method, path, json=body, headers=own)
                await self.server.service.tasks.drained()
                return answer

        return asyncio.run(go())

    def look(self) -> None:
        async def go() -> None:
            await self.server.service.look()

        asyncio.run(go())

    def put(self, **body: Any) -> httpx.Response:
        return self.ask("PUT", "/v1/tasks/lines", body)

    def answers(self, **headers: str) -> str:
        """The digest that answers a request."""
        answer = self.ask("POST", CHAT, ASKED, by="all", **headers)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Task-Digest"]

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield Desk(tmp_path)
    open_audit(None)


def digests(desk: Desk) -> list[str]:
    return [one.digest for one in read_routing(desk.store).tasks["lines"].shares]


def test_a_version_is_activated_by_label_or_digest_and_rolled_back(desk: Desk) -> None:
    assert desk.answers() == desk.one.digest
    shown = desk.put(digest=desk.two.digest[:12])
    assert (shown.status_code, shown.json()["digest"]) == (200, desk.two.digest)
    assert shown.headers["X-Task-Digest"] == desk.answers() == desk.two.digest
    assert desk.loader.discarded == [desk.one.digest]
    back = desk.ask("POST", "/v1/tasks/lines/rollback")
    assert back.json()["traffic"] == [{"digest": desk.one.digest, "version": "1", "weight": 1, "share": 1.0}]
    assert desk.answers() == desk.one.digest
    assert code(desk.ask("POST", "/v1/tasks/lines/rollback")) == (404, "version_not_found")
    labelled = save_frame(desk.store / "lines@three", "lines", scale=0.3)
    edit = json.loads((desk.store / "lines@three" / "bundle.json").read_text()) | {"version": "3.0"}
    (desk.store / "lines@three" / "bundle.json").write_text(json.dumps(edit))
    assert desk.put(version="3.0").json()["digest"] == labelled.digest == desk.answers()


def test_a_restarted_server_serves_what_was_chosen(desk: Desk) -> None:
    desk.put(digest=desk.two.digest)
    again = make_server().service
    asyncio.run(start(again, ServeConfig(tasks=desk.store), base_names=("base",), loader=FakeLoader()))
    assert again.tasks.find("lines").digest == desk.two.digest


def test_traffic_is_split_and_a_client_stays_with_its_version(desk: Desk) -> None:
    shown = desk.put(traffic={desk.one.digest[:8]: 50, desk.two.digest[:8]: 50}).json()
    assert [(one["digest"], one["share"]) for one in shown["traffic"]] == [
        (desk.one.digest, 0.5),
        (desk.two.digest, 0.5),
    ]
    by_header = [desk.answers(X_Sticky=f"client-{number}") for number in range(24)]
    assert by_header == [desk.answers(X_Sticky=f"client-{number}") for number in range(24)]
    assert min(Counter(by_header)[one] for one in (desk.one.digest, desk.two.digest)) >= 4
    anybody = Counter(desk.answers() for _ in range(24))
    assert set(anybody) == {desk.one.digest, desk.two.digest}
    said = [
        desk.ask("POST", CHAT, ASKED | {"user": f"client-{number}"}, by="all").headers["X-Task-Digest"]
        for number in range(24)
    ]
    assert said == by_header
    text = desk.server.registry
    info = [sample for family in text.collect() for sample in family.samples if "task_info" in sample.name]
    assert {(one.labels["digest"], one.value) for one in info} == {(desk.one.digest, 1), (desk.two.digest, 1)}
    answered = Counter(one[:12] for one in [*by_header * 2, *said]) + Counter(
        {digest[:12]: count for digest, count in anybody.items()}
    )
    for name in ("task_requests_total", "task_latency_seconds_count"):
        for version, count in answered.items():
            labels = {"task": "lines", "version": version}
            assert text.get_sample_value(f"passepartout_{name}", labels) == count


def test_a_version_that_comes_to_serve_alone_keeps_its_place(desk: Desk) -> None:
    desk.put(traffic={desk.one.digest: 9, desk.two.digest: 1})
    task = next(one for one, _ in desk.server.service.tasks.serving("lines") if one.digest == desk.two.digest)
    desk.put(digest=desk.two.digest)
    assert desk.server.service.tasks.find("lines") is task
    assert desk.loader.loaded == ["lines", "lines"]
    assert desk.loader.discarded == [desk.one.digest]


def test_one_that_is_down_leaves_its_traffic_to_the_others(desk: Desk) -> None:
    desk.put(traffic={desk.one.digest: 50, desk.two.digest: 50})
    (desk.store / "lines@2").rename(desk.store / ".aside")
    for _ in range(2):
        desk.look()
    assert {desk.answers(X_Sticky=str(number)) for number in range(12)} == {desk.one.digest}
    assert "routing.json" in desk.server.service.tasks.faults


def test_a_request_under_way_finishes_on_what_it_began_with(desk: Desk) -> None:
    async def story() -> None:
        held = desk.server.service.tasks.find("lines")
        transport = httpx.ASGITransport(desk.server.app)
        own = {"Authorization": "Bearer key-of-boss"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=own) as client:
            async with held.hold() as handle:
                await client.put("/v1/tasks/lines", json={"digest": desk.two.digest})
                assert desk.server.service.tasks.find("lines").digest == desk.two.digest
                assert (handle.digest, desk.loader.discarded) == (desk.one.digest, [])
            await desk.server.service.tasks.drained()
        assert desk.loader.discarded == [desk.one.digest]

    asyncio.run(story())


def test_a_removed_task_is_served_to_nobody_its_files_stay_and_it_comes_back(desk: Desk) -> None:
    gone = desk.ask("DELETE", "/v1/tasks/lines")
    assert (gone.status_code, gone.json()["deleted"]) == (200, True)
    assert code(desk.ask("POST", CHAT, ASKED)) == (404, "task_not_found")
    assert code(desk.ask("GET", "/v1/tasks/lines")) == (404, "task_not_found")
    assert desk.ask("GET", "/v1/tasks").json()["data"] == []
    assert code(desk.ask("DELETE", "/v1/tasks/lines")) == (404, "task_not_found")
    assert (desk.store / "lines" / "bundle.json").is_file()
    assert len(desk.ask("GET", "/v1/tasks/lines/versions").json()["data"]) == 2
    assert desk.ask("POST", "/v1/tasks/lines/rollback").json()["digest"] == desk.one.digest
    desk.ask("DELETE", "/v1/tasks/lines")
    assert code(desk.put()) == (404, "version_not_found")
    assert desk.put(digest=desk.two.digest).status_code == 200
    assert desk.answers() == desk.two.digest


def test_what_the_engine_refuses_changes_nothing(desk: Desk) -> None:
    def check(bundle: Bundle) -> None:
        if bundle.digest == desk.two.digest:
            raise BundleError(bundle.path or Path("x"), ["canary.json: 3 off"])

    desk.loader.check = check  # type: ignore[method-assign]
    refused = desk.put(digest=desk.two.digest)
    assert code(refused) == (409, "version_refused")
    assert "3 off" in refused.json()["error"]["message"]
    assert desk.answers() == desk.one.digest
    assert not (desk.store / "routing.json").exists()
    assert desk.audited()[-1]["outcome"] == "version_refused"


def test_who_changes_what_another_has_changed_is_told(desk: Desk) -> None:
    tag = desk.ask("GET", "/v1/tasks/lines").headers["ETag"]
    changed = desk.ask("PUT", "/v1/tasks/lines", {"digest": desk.two.digest}, If_Match=tag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    stale = desk.ask("PUT", "/v1/tasks/lines", {"digest": desk.one.digest}, If_Match=tag)
    assert code(stale) == (412, "precondition_failed")
    assert digests(desk) == [desk.two.digest]
    assert desk.ask("DELETE", "/v1/tasks/lines", If_Match=changed.headers["ETag"]).status_code == 200


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"version": "9"}, (404, "version_not_found")),
        ({"version": "1"}, (404, "version_not_found")),  # both are labelled so
        ({"digest": "00"}, (404, "version_not_found")),
        ({}, (404, "version_not_found")),
        ({"version": "1", "digest": "ab"}, (400, "invalid_input")),
        ({"traffic": {}}, (400, "invalid_input")),
        ({"traffic": {"1": -1}}, (400, "invalid_input")),
        ({"path": "/etc"}, (400, "invalid_input")),
        ([], (400, "invalid_input")),
    ],
)
def test_a_wish_that_is_none_is_refused(desk: Desk, body: Any, found: tuple[int, str]) -> None:
    assert code(desk.ask("PUT", "/v1/tasks/lines", body)) == found
    assert code(desk.ask("PUT", "/v1/tasks/nosuch", {"version": "1"})) == (404, "task_not_found")
    assert desk.put(traffic={desk.one.digest: 0}).status_code == 400
    assert not (desk.store / "routing.json").exists()


def test_one_version_under_two_words_has_no_more_than_the_greatest_weight(desk: Desk) -> None:
    words = {desk.one.digest[:8]: 1_000_000, desk.one.digest[:9]: 1}
    assert code(desk.put(traffic=words)) == (400, "invalid_input")
    assert desk.audited()[-1]["outcome"] == "invalid_input"


def test_a_version_that_goes_while_another_is_tried_is_not_found(desk: Desk) -> None:
    def check(bundle: Bundle) -> None:
        desk.server.service.tasks.versions = {}

    save_frame(desk.store / "lines@3", "lines", scale=0.3)
    desk.look()
    third = desk.server.service.tasks.versions["lines"][-1].digest
    desk.loader.check = check  # type: ignore[method-assign]
    refused = desk.put(traffic={desk.two.digest: 1, third: 1})
    assert code(refused) == (404, "version_not_found")
    assert desk.audited()[-1]["outcome"] == "version_not_found"


def test_what_nobody_foresaw_is_written_down_too(desk: Desk) -> None:
    own_look = desk.server.service.look
    looks = []

    async def look() -> None:
        looks.append(1)
        if len(looks) > 1:
            raise RuntimeError("a bug")
        await own_look()

    desk.server.service.look = look
    desk.put(digest=desk.two.digest)
    assert digests(desk) == [desk.two.digest]
    assert (desk.audited()[-1]["outcome"], desk.audited()[-1]["digest_after"]) == ("done", desk.two.digest)
    with pytest.raises(RuntimeError):
        desk.ask("DELETE", "/v1/tasks/lines")
    assert (desk.audited()[-1]["event"], desk.audited()[-1]["outcome"]) == ("task.delete", "internal_error")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/tasks/lines"), ("DELETE", "/v1/tasks/lines"), ("POST", "/v1/tasks/lines/rollback")],
)
def test_admins_alone_change_tasks(desk: Desk, method: str, path: str) -> None:
    assert code(desk.ask(method, path, {}, by="all")) == (403, "forbidden")
    assert code(desk.ask(method, path, {}, by="nobody")) == (401, "invalid_api_key")
    assert code(desk.ask("GET", "/v1/tasks/lines/versions", by="none")) == (403, "forbidden")
    assert not (desk.store / "routing.json").exists()


def test_a_version_that_comes_back_while_it_drains_stays_on_the_device(desk: Desk) -> None:
    service, loader = desk.server.service, desk.loader
    first, second = (Share(digest=one.digest) for one in (desk.one, desk.two))

    async def go() -> None:
        await apply_shares(service, desk.store, "lines", (first, second))
        held = next(task for task, _ in service.tasks.serving("lines") if task.digest == second.digest)
        async with held.hold():
            await apply_shares(service, desk.store, "lines", (first,))
            await apply_shares(service, desk.store, "lines", (first, second))
        await service.tasks.drained()

    asyncio.run(go())
    assert loader.discarded == []
    assert loader.is_on_device(desk.two.digest)


def test_each_change_is_written_down(desk: Desk) -> None:
    asked = desk.ask("PUT", "/v1/tasks/lines", {"digest": desk.two.digest}, X_Request_Id="deploy-7")
    assert asked.headers["X-Request-Id"] == "deploy-7"
    desk.ask("POST", "/v1/tasks/lines/rollback", X_Request_Id='bad"\\id')
    desk.ask("DELETE", "/v1/tasks/lines")
    first, second, third = desk.audited()
    assert first | {"time": ""} == {
        "time": "",
        "event": "task.activate",
        "task": "lines",
        "by": "boss",
        "request_id": "deploy-7",
        "outcome": "done",
        "digest_before": desk.one.digest,
        "digest_after": desk.two.digest,
        "traffic_before": [Share(digest=desk.one.digest).model_dump()],
        "traffic_after": [Share(digest=desk.two.digest).model_dump()],
    }
    assert (second["event"], second["digest_after"]) == ("task.rollback", desk.one.digest)
    assert len(second["request_id"]) == 32
    assert (third["event"], third["digest_after"], third["traffic_after"]) == ("task.delete", None, [])


def test_a_log_that_is_rotated_goes_on_in_its_place(desk: Desk) -> None:
    desk.put(digest=desk.two.digest)
    desk.audit_file.rename(desk.audit_file.with_suffix(".1"))
    desk.put(digest=desk.one.digest)
    assert [one["digest_after"] for one in desk.audited()] == [desk.one.digest]


def test_the_list_is_filtered(desk: Desk) -> None:
    save_frame(desk.store / "dots", "dots", scale=0.2)
    desk.look()

    def names(query: str) -> list[str]:
        return [one["id"] for one in desk.ask("GET", f"/v1/tasks?{query}").json()["data"]]

    assert names("") == ["dots", "lines"]
    assert (names("q=INE"), names("prefix=do"), names("prefix=ots")) == (["lines"], ["dots"], [])
    assert (names("on_device=true"), names("on_device=false")) == (["dots", "lines"], [])
    assert names("method=tvp") == []
    for query in ("on_device=maybe", "colour=red"):
        assert code(desk.ask("GET", f"/v1/tasks?{query}")) == (400, "invalid_input")


def test_versions_tell_what_serves_and_what_waits(desk: Desk) -> None:
    listed = desk.ask("GET", "/v1/tasks/lines/versions", by="all").json()["data"]
    weights = {one["digest"]: (one["weight"], one["on_device"]) for one in listed}
    assert weights == {desk.one.digest: (1, True), desk.two.digest: (0, False)}
    assert all(one["canary"] == {"state": "none"} for one in listed)
    assert str(desk.store) not in json.dumps(listed)
    drawn = [
        desk.ask("GET", f"/v1/tasks/lines/preview.png?digest={one.digest}") for one in (desk.one, desk.two)
    ]
    assert drawn[0].headers["X-Task-Digest"] == desk.one.digest
    assert drawn[0].content != drawn[1].content
    assert code(desk.ask("GET", "/v1/tasks/lines/preview.png?digest=ab")) == (404, "version_not_found")


def test_a_frame_is_drawn_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def counted(bundle: Bundle) -> Any:
        drawn.append(bundle.digest)
        return preview(bundle)

    monkeypatch.setattr("server.previews.preview", counted)
    monkeypatch.setattr("server.previews._MOST", 1)
    path = "/v1/tasks/lines/preview.png"
    one, again = (desk.ask("GET", path).content for _ in range(2))
    assert (one, drawn) == (again, [desk.one.digest])
    assert desk.ask("GET", f"{path}?digest={desk.two.digest}").content != one
    assert desk.ask("GET", path).content == one
    assert drawn == [desk.one.digest, desk.two.digest, desk.one.digest]


def test_a_lock_that_is_held_is_503_and_not_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompts.routing._PATIENCE_SECONDS", 0.0)
    with open(desk.store / ".routing.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = desk.put(digest=desk.two.digest)
        assert code(answer) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
    assert desk.audited()[-1]["outcome"] == "overloaded"
    assert desk.put(digest=desk.two.digest).status_code == 200


def test_a_question_without_the_task_is_none_of_this(desk: Desk) -> None:
    desk.put(traffic={desk.one.digest: 1, desk.two.digest: 1})
    assert "X-Task-Digest" not in desk.ask("POST", CHAT, QUESTION, X_Sticky="me").headers
