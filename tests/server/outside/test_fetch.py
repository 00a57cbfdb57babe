"""Fetching from a real HTTP server of the test's own, to which a resolver of the test's own leads."""

import asyncio
import base64
import io
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from PIL import Image

from prompts.errors import InputError, TooLargeError
from server.outside.dial import PinnedTransport, resolve
from server.outside.fetch import Budget, Fetcher
from server.outside.hosts import Address, parse_hosts
from tests.server.conftest import Site
from tests.server.fake import picture_url

CHAT = "/v1/chat/completions"
HOME = ip_address("127.0.0.1")
NOBODY = ip_address("127.0.0.2")
PNG = base64.b64decode(picture_url((21, 17)).partition(",")[2])


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        if self.path == "/slow":
            self.server.woken.wait(60)
        status, headers, body = self.server.answers.get(self.path, (404, {}, b"secret words"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.server.broken.set()

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {"/a.png": (200, {}, PNG)}
        self.woken, self.broken = threading.Event(), threading.Event()


@dataclass
class Outside:
    """The world: names and where they lead, and one server that answers at 127.0.0.1."""

    server: _Server
    names: dict[str, list[str]] = field(default_factory=lambda: {"pictures.example": ["127.0.0.1"]})
    looked_up: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    async def resolve(self, name: str, port: int) -> list[Address]:
        self.looked_up.append(name)
        if name not in self.names:
            raise OSError(f"no address for {name}")
        return [ip_address(one) for one in self.names[name]]

    def fetcher(self, hosts: str = "pictures.example:{port}", **options: Any) -> Fetcher:
        """As the server makes it, but that the test's address is allowed."""
        listed, faults = parse_hosts(hosts.format(port=self.port))
        assert faults == []
        return Fetcher(listed, transport=self.transport, **options)

    def transport(self) -> PinnedTransport:
        return PinnedTransport(resolve=self.resolve, is_allowed=lambda address: address in (HOME, NOBODY))

    def url(self, path: str, host: str = "pictures.example") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
def outside() -> Iterator[Outside]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Outside(server)
    server.woken.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(fetcher: Fetcher, url: str, budget: int = 64) -> bytes:
    return asyncio.run(fetcher.fetch(url, place="messages[0].image_url", budget=Budget(budget)))


def refused(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(InputError) as caught:
        fetch(fetcher, url)
    message = str(caught.value)
    assert message.startswith("messages[0].image_url: ")
    for secret in ("127.0.0", "secret", "object at", "Errno", "no address"):
        assert secret not in message
    return message


def test_a_picture_of_an_allowed_host_is_fetched_by_its_name(outside: Outside) -> None:
    assert fetch(outside.fetcher(), outside.url("/a.png")) == PNG
    assert outside.server.asked == [(f"pictures.example:{outside.port}", "/a.png")]
    assert outside.looked_up == ["pictures.example"]  # once: what was checked is what was dialled


def test_a_host_that_is_not_listed_is_not_even_looked_up(outside: Outside) -> None:
    for url in (
        outside.url("/a.png", "other.example"),
        outside.url("/a.png", "pictures.example."),
        outside.url("/a.png", "me@pictures.example"),
        "http://pictures.example/a.png",
        f"http://127.0.0.1:{outside.port}/a.png",
        f"ftp://pictures.example:{outside.port}/a.png",
        f"http://pictures.example:{outside.port}@other.example/",
        "http://",
        "http://[::1",
        "http://pictures.example:99999/",
        outside.url("/" + "x" * 10_000),
    ):
        refused(outside.fetcher(), url)
    assert (outside.looked_up, outside.server.asked) == ([], [])
    said = refused(Fetcher(), outside.url("/a.png"))
    assert "expected data:, came an address elsewhere; this server fetches no pictures from there" in said
    assert "--picture-hosts" in said
    assert "pictures.example" not in said


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["169.254.169.254"], []],
)
def test_every_address_of_a_host_must_be_allowed(outside: Outside, addresses: list[str]) -> None:
    outside.names["pictures.example"] = addresses
    assert "could not be fetched" in refused(outside.fetcher(), outside.url("/a.png"))
    assert outside.server.asked == []


def test_the_next_address_is_dialled_where_one_does_not_answer(outside: Outside) -> None:
    outside.names["pictures.example"] = [str(NOBODY), str(HOME)]
    assert fetch(outside.fetcher(), outside.url("/a.png")) == PNG
    outside.names["pictures.example"] = [str(NOBODY)]
    assert "could not be fetched" in refused(outside.fetcher(), outside.url("/a.png"))


def test_the_public_alone_are_allowed_where_nobody_says_otherwise(outside: Outside) -> None:
    hosts, _ = parse_hosts(f"localhost:{outside.port}")
    assert "could not be fetched" in refused(Fetcher(hosts), outside.url("/a.png", "localhost"))
    assert outside.server.asked == []
    assert HOME in asyncio.run(resolve("localhost", outside.port))


def test_a_redirect_is_checked_again(outside: Outside) -> None:
    answers = outside.server.answers
    answers["/there"] = (302, {"Location": "/a.png"}, b"")
    assert fetch(outside.fetcher(), outside.url("/there")) == PNG
    outside.names |= {"other.example": ["127.0.0.1"], "127.0.0.1": ["127.0.0.1"]}
    for target in (
        f"http://127.0.0.1:{outside.port}/a.png",
        outside.url("/a.png", "other.example"),
        "file:///etc/passwd",
        f"//other.example:{outside.port}/a.png",
        "http://[",
    ):
        answers["/away"] = (307, {"Location": target}, b"")
        outside.server.asked.clear()
        refused(outside.fetcher(), outside.url("/away"))
        assert [path for _, path in outside.server.asked] == ["/away"]


def test_a_name_that_turns_inward_between_redirects_is_refused(outside: Outside) -> None:
    outside.server.answers["/there"] = (302, {"Location": "/a.png"}, b"")
    fetcher, first = outside.fetcher(), outside.resolve

    async def turning(name: str, port: int) -> list[Address]:
        found = await first(name, port)
        return found if len(outside.looked_up) == 1 else [ip_address("10.0.0.1")]

    outside.resolve = turning  # type: ignore[method-assign]
    assert "could not be fetched" in refused(fetcher, outside.url("/there"))
    assert [path for _, path in outside.server.asked] == ["/there"]


def test_redirects_end(outside: Outside) -> None:
    outside.server.answers["/round"] = (301, {"Location": "/round"}, b"")
    assert "more than 3 redirects" in refused(outside.fetcher(), outside.url("/round"))
    assert len(outside.server.asked) == 4


def test_https_does_not_lead_to_http() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": "http://pictures.example/a.png"})

    hosts, _ = parse_hosts("pictures.example")
    fetcher = Fetcher(hosts, transport=lambda: httpx.MockTransport(answer))
    assert "from https to http" in refused(fetcher, "https://pictures.example/a.png")


def test_tls_is_asked_to_prove_the_name_and_not_the_address() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"x"))

    async def public(name: str, port: int) -> list[Address]:
        return [ip_address("2606:2800:220:1:248:1893:25c8:1946"), ip_address("93.184.216.34")]

    hosts, _ = parse_hosts("pictures.example")
    inner = httpx.MockTransport(answer)
    fetcher = Fetcher(hosts, transport=lambda: PinnedTransport(inner, resolve=public))
    assert fetch(fetcher, "https://pictures.example/a.png") == b"x"
    (request,) = seen
    assert request.url.host == "2606:2800:220:1:248:1893:25c8:1946"
    assert request.headers["Host"] == "pictures.example"
    assert request.extensions["sni_hostname"] == "pictures.example"


def test_a_proxy_of_the_environment_is_not_asked(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(outside.fetcher(), outside.url("/a.png")) == PNG


def test_a_picture_is_cut_off_where_it_grows_too_large(outside: Outside) -> None:
    outside.server.answers["/huge"] = (200, {}, b"x" * 30_000_000)
    with pytest.raises(TooLargeError, match=r"messages\[0\].image_url: expected at most 1 MB"):
        fetch(outside.fetcher(max_mb=1), outside.url("/huge"))
    assert outside.server.broken.wait(5)
    with pytest.raises(TooLargeError, match="at most 1 MB of pictures"):
        fetch(outside.fetcher(), outside.url("/huge"), budget=1)


def test_a_slow_host_is_not_waited_for(outside: Outside) -> None:
    assert "none within 0.05 s" in refused(outside.fetcher(seconds=0.05), outside.url("/slow"))


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500])
def test_what_the_host_says_is_not_told(
    outside: Outside, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    outside.server.answers["/odd"] = (status, {}, b"secret words")
    assert "could not be fetched" in refused(outside.fetcher(), outside.url("/odd"))
    outside.names.clear()
    with caplog.at_level(logging.INFO, logger="vllm.passepartout"):
        refused(outside.fetcher(), outside.url("/odd"))
    assert caplog.messages == ["a picture was not fetched: OSError"]


def ask(site: Site, *urls: str, **body: Any) -> httpx.Response:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return site.client.post(CHAT, json={"messages": [{"role": "user", "content": parts}]} | body)


@pytest.fixture
def fetching(site: Site, outside: Outside) -> Iterator[Outside]:
    """The fake server fetches from there."""
    service = site.server.service
    before, service.fetcher = service.fetcher, outside.fetcher()
    yield outside
    service.fetcher = before


@pytest.mark.parametrize("task", [None, "framed"])
def test_vllm_is_handed_the_bytes(site: Site, fetching: Outside, task: str | None) -> None:
    response = ask(site, picture_url(), fetching.url("/a.png"), task=task)
    assert response.status_code == 200, response.text
    content = site.server.seen[-1]["messages"][0]["content"]
    assert content[0]["image_url"]["url"] == picture_url()
    head, _, payload = content[1]["image_url"]["url"].partition(",")
    assert head == "data:image/*;base64"
    with Image.open(io.BytesIO(base64.b64decode(payload))) as image:
        assert image.size == (21, 17)


@pytest.mark.parametrize(
    ("path", "body", "find"),
    [
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "URL"}]}]},
            lambda seen: seen["input"][0]["content"][0]["image_url"],
        ),
        (
            "/v1/messages",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "url", "url": "URL"}}],
                    }
                ]
            },
            lambda seen: seen["messages"][0]["content"][0]["source"]["url"],
        ),
    ],
)
def test_a_picture_is_fetched_in_every_apis_shape(
    site: Site, fetching: Outside, path: str, body: dict[str, Any], find: Any
) -> None:
    response = site.client.post(path, content=_json(body).replace("URL", fetching.url("/a.png")))
    assert response.status_code == 200, response.text
    assert base64.b64decode(find(site.server.seen[-1]).partition(",")[2]) == PNG


def _json(body: dict[str, Any]) -> str:
    return httpx.Request("POST", "http://x", json=body).content.decode()


def test_what_was_fetched_is_looked_at_as_what_was_sent(site: Site, fetching: Outside) -> None:
    fetching.server.answers["/page"] = (200, {"Content-Type": "image/png"}, b"<html>")
    response = ask(site, fetching.url("/page"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "picture_invalid")
    assert "messages[0].content[0].image_url: expected a picture" in response.json()["error"]["message"]


def test_nothing_is_fetched_for_a_request_that_is_refused_anyway(site: Site, fetching: Outside) -> None:
    url = fetching.url("/a.png")
    assert ask(site, url, task="nosuch").status_code == 404
    assert ask(site, url, *[picture_url()] * 32).status_code == 413
    assert fetching.server.asked == []


def test_the_first_that_fails_ends_the_others(site: Site, fetching: Outside) -> None:
    slow, wrong = fetching.url("/slow"), fetching.url("/nosuch")
    response = ask(site, slow, wrong)
    assert response.status_code == 400
    assert "messages[0].content[1].image_url" in response.json()["error"]["message"]


@pytest.mark.parametrize("sent", [[picture_url()] * 33, ["http://pictures.example/a.png"] * 33])
def test_pictures_are_counted(site: Site, sent: list[str]) -> None:
    response = ask(site, *sent)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert "pictures: expected at most 32 pictures, came 33" in response.json()["error"]["message"]


def test_without_a_list_no_address_is_fetched(site: Site) -> None:
    response = ask(site, "http://93.184.216.34/a.png", task="framed")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "picture_invalid")
    assert "this server fetches no pictures from there" in response.json()["error"]["message"]
    assert response.headers["X-Task"] == "framed"
