"""The page's routes: what is served, under which headers, and that nothing else is."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import httpx
import pytest
from PIL import Image

from server.page.routes import ASSETS, STATIC, read_assets
from tests.server.conftest import Site

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [name for name in ASSETS if name.endswith(".js")]
MAX_LINES, MAX_WIDTH = 250, 110


def test_the_page_is_at_the_root_and_its_files_beside_it(site: Site) -> None:
    page = site.client.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.content == (STATIC / "index.html").read_bytes()
    for name, asset in ASSETS.items():
        answer = site.client.get(f"/page/{name}")
        assert answer.content == (STATIC / name).read_bytes()
        assert answer.headers["Content-Type"].startswith(asset.media_type)


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/nothing.js"])
def test_every_answer_is_fenced_in(site: Site, path: str) -> None:
    headers = site.client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    for name in ("object-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("weak", ["", "W/"])
def test_what_the_browser_has_is_not_sent_again(site: Site, weak: str) -> None:
    first = site.client.get("/page/page.css")
    again = site.client.get(
        "/page/page.css", headers={"If-None-Match": f'"other", {weak}{first.headers["ETag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert site.client.get("/page/page.css", headers={"If-None-Match": '"other"'}).status_code == 200
    assert len({asset.etag for asset in ASSETS.values()}) == len(ASSETS)


def test_a_head_says_the_same_without_the_page(site: Site) -> None:
    head, page = site.client.head("/"), site.client.get("/")
    assert head.content == b""
    assert head.headers["ETag"] == page.headers["ETag"]


@pytest.mark.parametrize(
    "path", ["/page/", "/page/routes.py", "/page/../routes.py", "/page/..%2froutes.py", "/page//etc/passwd"]
)
def test_no_other_file_is_served(site: Site, path: str) -> None:
    answer = site.client.send(httpx.Request("GET", site.url + path))
    assert answer.status_code == 404
    assert answer.content == b"" or answer.json()["error"]["code"] == "route_not_found"


def test_the_other_routes_are_where_they_were(site: Site) -> None:
    assert site.client.get("/v1/tasks").json()["object"] == "list"
    assert site.client.get("/nothing").status_code == 404
    assert site.client.post("/").status_code == 405
    assert not [path for path in site.client.get("/openapi.json").json()["paths"] if path.startswith("/page")]


def test_whatever_the_files_name_is_there() -> None:
    page = ASSETS["index.html"].content.decode()
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', page))
    for name in SCRIPTS:
        named |= set(re.findall(r'from "\./([^"]+)"', ASSETS[name].content.decode()))
    examples = json.loads(ASSETS["examples/examples.json"].content)
    named |= {f"examples/{one['file']}" for one in examples} | {"examples/examples.json", "index.html"}
    assert named == set(ASSETS)


def test_examples_are_pictures_for_the_shipped_tasks() -> None:
    examples = json.loads(ASSETS["examples/examples.json"].content)
    shipped = {path.name for path in (ROOT / "examples" / "tasks").iterdir()}
    assert {one["task"] for one in examples} == shipped
    for one in examples:
        with Image.open(STATIC / "examples" / one["file"]) as image:
            assert image.size == (224, 224)
        assert one["question"].endswith("?")
        assert one["title"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_small_and_puts_text_in_as_text(name: str) -> None:
    script = ASSETS[name].content.decode()
    assert script.startswith("// ")
    assert script.count("\n") <= MAX_LINES
    assert max(map(len, script.splitlines())) <= MAX_WIDTH
    assert not re.search(
        r"(inner|outer|insertAdjacent|set)HTML|document\.write|\beval\(|new Function", script
    )
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)


def test_no_markup_says_how_it_looks_or_what_it_does() -> None:
    page = ASSETS["index.html"].content.decode()
    assert not re.search(r"\s(style|on\w+)=", page)
    assert not re.search(r"<script(?![^>]*\ssrc=)", page)
    assert "http" not in page.replace("https", "http").partition("</head>")[0]


def test_the_wheel_has_the_page() -> None:
    """The wheel takes whole packages, but for what git ignores."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert STATIC.relative_to(ROOT).parts[0] in wheel["only-include"]
    assert not {"exclude", "include"} & wheel.keys()
    paths = [str(STATIC / name) for name in ASSETS]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout == ""
    assert len(paths) > 20


def test_a_file_of_an_unknown_kind_is_not_served_by_guess(tmp_path: Path) -> None:
    (tmp_path / "page.exe").touch()
    with pytest.raises(KeyError):
        read_assets(tmp_path)
