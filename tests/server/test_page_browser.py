"""The page as people use it: real Chromium, real sockets, a fake engine that can be held in mid-answer."""

import asyncio
import base64
import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prompts.bundle import load_bundle, save_bundle
from prompts.frame import frame_mask, frame_picture, to_display
from prompts.manifest import FrameSpec, Manifest, Usage
from server.app import start
from server.config import ServeConfig
from tests.prompts.sample import edit_json
from tests.server.browser import Visit, ask, card, choose, running_browser, visiting
from tests.server.conftest import Site, listening, save_text
from tests.server.fake import FakeLoader, make_server

pytestmark = pytest.mark.browser

MARKUP = "<img src=x onerror=alert(1)>"
INNER = 20
DROP = """([data, type, name]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  document.getElementById("drop").dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
LISTEN = """() => {
  const heard = document.body.appendChild(document.createElement("p"));
  heard.id = "heard";
  const live = document.getElementById("live");
  new MutationObserver(() => heard.append(" ", live.textContent)).observe(live, { childList: true });
}"""
"""What a screen reader is given to say, kept."""
TO_CLIPBOARD = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""


def save_framed(folder: Path, name: str, **geometry: Any) -> None:
    """A frame of random pixels, within what 8 bits show around the preview's grey."""
    spec = FrameSpec(canvas=(32, 40), inner=INNER, **geometry)
    delta = torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(1)) * 0.3
    manifest = Manifest(name=name, version="1", description=f"{MARKUP} of {name}", frame=spec)
    save_bundle(folder / name, manifest, {"frame.delta": delta * frame_mask(spec)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    save_framed(folder, "framed")
    save_framed(folder, "everywhere", free="all")
    save_text(folder / "plain", "plain")
    save_text(folder / "spoken", "spoken", Usage(system="Be brief.", template="Name it: {text}!"))
    save_text(folder / "sly", "sly", Usage(choices=(MARKUP, "dog")))
    save_text(folder / "broken", "broken")
    edit_json(folder / "broken", lambda raw: raw.update({MARKUP: 1}))
    return folder


@pytest.fixture(scope="module")
def site(store: Path) -> Iterator[Site]:
    server = make_server()
    asyncio.run(start(server.service, ServeConfig(tasks=store), base_names=("base",), loader=FakeLoader()))
    with listening(server) as found:
        yield found


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Any]:
    with running_browser() as found:
        yield found


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Visit]:
    with visiting(browser, site.url) as found:
        yield found
    site.server.engine.hold_after = None


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


def png(size: tuple[int, int] = (30, 20)) -> bytes:
    """A picture in which each pixel differs from its neighbours'."""
    data = io.BytesIO()
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x * 7 % 256, y * 9 % 256, (x + y) * 5 % 256], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(data, "PNG")
    return data.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """The decoded picture, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def asked_picture(site: Site) -> str:
    return str(site.server.seen[-1]["messages"][-1]["content"][0]["image_url"]["url"])


def wait_for_aborts(site: Site, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(site.server.engine.aborted) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(site.server.engine.aborted) == count


def test_answers_of_two_tasks_and_the_base_model_stream_side_by_side(visit: Visit, site: Site) -> None:
    page = visit.open()
    page.evaluate(LISTEN)
    choose(page, None, "plain", "spoken")
    site.server.engine.hold_after = 1
    ask(page)
    for task, word in ((None, "nobody"), ("plain", "plain"), ("spoken", "spoken")):
        expect(card(page, task).locator(".answer")).to_have_text(word)
        expect(card(page, task)).to_have_attribute("aria-busy", "true")
    boxes = [card(page, task).bounding_box() for task in (None, "plain")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    site.server.engine.hold_after = None
    for task in ("plain", "spoken"):
        expect(card(page, task).locator(".answer")).to_have_text(f"{task} says anything")
        digest = site.server.service.tasks.find(task).digest
        expect(card(page, task).locator(".digest")).to_have_text(digest[:10])
        for figure in ("first token", "tok/s", "3 tok"):
            expect(card(page, task).locator(".figures")).to_contain_text(figure)
    words = "base model: nobody says anything plain: plain says anything spoken: spoken says anything"
    expect(page.locator("#heard")).to_have_text(re.compile(r"(\w+ ?\w+: .*){3}"))
    assert sorted(page.locator("#heard").text_content().replace(".", "").split()) == sorted(words.split())
    expect(card(page, None).locator(".digest")).to_have_count(0)
    card(page, "plain").locator(".digest").click()
    expect(page.locator("#live")).to_have_text("Digest copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == site.server.service.tasks.find("plain").digest


def test_one_is_stopped_then_all(visit: Visit, site: Site) -> None:
    page = visit.open()
    choose(page, None, "plain", "spoken")
    site.server.engine.aborted.clear()
    site.server.engine.hold_after = 1
    ask(page)
    for task in (None, "plain", "spoken"):
        expect(card(page, task)).to_have_attribute("data-state", "writing")
    card(page, "plain").get_by_role("button", name="Stop").click()
    expect(card(page, "plain")).to_have_attribute("data-state", "stopped")
    wait_for_aborts(site, 1)
    expect(card(page, "spoken")).to_have_attribute("data-state", "writing")
    page.keyboard.press("Escape")
    for task in (None, "spoken"):
        expect(card(page, task)).to_have_attribute("data-state", "stopped")
    wait_for_aborts(site, 3)
    expect(page.get_by_role("button", name="Stop all")).to_be_hidden()
    expect(card(page, "plain").locator(".answer")).to_have_text("plain")


def test_more_than_the_browser_has_connections_for_wait_their_turn(visit: Visit, site: Site) -> None:
    page = visit.open()
    site.server.engine.hold_after = 1
    choose(page, None, "plain")
    for _ in range(3):
        ask(page)
    expect(page.locator('.card[data-state="writing"]')).to_have_count(5)
    expect(page.locator('.card[data-state="queued"]')).to_have_count(1)
    site.server.engine.hold_after = None
    expect(page.locator('.card[data-state="done"]')).to_have_count(6)


@pytest.mark.parametrize("way", ["drop", "pick", "paste"])
def test_a_picture_comes_in_byte_for_byte(visit: Visit, site: Site, way: str) -> None:
    page, data = visit.open(), png()
    if way == "drop":
        page.evaluate(DROP, [encoded(data), "image/png", "mine.png"])
    elif way == "pick":
        page.locator("#file").set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": data})
    else:
        page.evaluate(TO_CLIPBOARD, encoded(data))
        page.keyboard.press("Control+v")
    expect(page.locator("#caption")).to_contain_text("30 × 20")
    choose(page, "plain")
    ask(page)
    expect(card(page, "plain").locator(".answer")).to_have_text("plain says anything")
    sent = base64.b64decode(asked_picture(site).removeprefix("data:image/png;base64,"))
    if way == "paste":  # the browser itself writes what it keeps on the clipboard anew
        assert (pixels(sent) == pixels(data)).all()
    else:
        assert sent == data


def test_what_the_server_does_not_read_is_made_png_and_what_nobody_reads_is_refused(
    visit: Visit, site: Site
) -> None:
    page = visit.open()
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="12" height="9"><path d="M0 0h9v9"/></svg>'
    page.evaluate(DROP, [encoded(drawing), "image/svg+xml", "drawn.svg"])
    expect(page.locator("#caption")).to_contain_text("drawn.svg.png · 12 × 9")
    page.evaluate(DROP, [encoded(b"hello"), "text/plain", "notes.txt"])
    expect(page.locator("#picture-fault")).to_have_text("notes.txt is no picture that the browser can read.")
    choose(page, "plain")
    ask(page)
    expect(card(page, "plain")).to_have_attribute("data-state", "done")
    assert asked_picture(site).startswith("data:image/png;base64,")


def test_a_picture_of_the_camera(visit: Visit, site: Site) -> None:
    page = visit.open()
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#caption")).to_contain_text("camera.jpg")
    ask(page)
    expect(card(page, "plain")).to_have_attribute("data-state", "done")
    assert asked_picture(site).startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("task", "size"), [("framed", (INNER, INNER + 8)), ("everywhere", (INNER + 6, INNER))]
)
def test_the_picture_stands_in_its_frame_as_the_server_puts_it(
    visit: Visit, store: Path, task: str, size: tuple[int, int]
) -> None:
    """Of a size that is cut and not scaled: the browser's own scaling is another than the server's."""
    page, bundle = visit.open(), load_bundle(store / task)
    page.evaluate(DROP, [encoded(png(size)), "image/png", "mine.png"])
    expect(page.locator("#caption")).to_be_visible()
    choose(page, task)
    ask(page)
    shown = card(page, task).locator("canvas[width='40']")
    expect(shown).to_be_visible()
    address = shown.evaluate("(canvas) => canvas.toDataURL()").partition(",")[2]
    drawn = pixels(base64.b64decode(address)).astype(int)
    frame, delta = bundle.manifest.frame, bundle.frame_delta
    assert frame is not None
    assert delta is not None
    right = to_display(frame_picture(Image.open(io.BytesIO(png(size))), frame, delta))
    assert np.abs(drawn - np.asarray(right)).max() <= 1


def test_an_error_is_told_in_the_servers_words_and_the_others_go_on(visit: Visit, site: Site) -> None:
    visit.expected_fault = "status of 400"
    page = visit.open()
    choose(page, "framed", "plain")
    ask(page)
    words = site.client.post("/v1/chat/completions", json={"messages": [], "task": "framed"}).json()
    expect(card(page, "framed").locator(".fault")).to_have_text(words["error"]["message"])
    expect(page.locator("#live")).to_contain_text(words["error"]["message"])
    expect(card(page, "plain").locator(".answer")).to_have_text("plain says anything")


def test_an_error_in_mid_answer_is_told_too(visit: Visit) -> None:
    page = visit.open()

    def break_it(route: Any) -> None:
        route.continue_(post_data=route.request.post_data_json | {"stream_breaks": 1})

    page.route("**/v1/chat/completions", break_it)
    choose(page, "plain")
    ask(page)
    expect(card(page, "plain").locator(".fault")).to_have_text("broke: 1")
    expect(card(page, "plain")).to_have_attribute("aria-busy", "false")


def test_the_same_picture_is_asked_again(visit: Visit, site: Site) -> None:
    page = visit.open()
    page.locator(".example").first.click()
    expect(page.locator("#question")).not_to_be_empty()
    choose(page, "spoken")
    for question in ("one", "two"):
        ask(page, question)
        expect(card(page, "spoken")).to_have_attribute("data-state", "done")
    assert [one.inner_text() for one in page.locator(".round h2").all()] == ["two", "one"]
    first, second = (body["messages"][-1]["content"] for body in site.server.seen[-2:])
    assert first[0] == second[0]
    assert [first[1]["text"], second[1]["text"]] == ["Name it: one!", "Name it: two!"]


def test_a_template_is_shown_before_it_is_used(visit: Visit) -> None:
    page = visit.open()
    choose(page, "spoken")
    page.locator("#question").fill("a {text} of mine")
    expect(page.locator("#wording")).to_contain_text("is asked “Name it: a {text} of mine!”")
    expect(page.locator("#wording")).to_contain_text("is told “Be brief.”")


def test_what_is_copied_runs(visit: Visit, site: Site, tmp_path: Path) -> None:
    page, question = visit.open(), 'it\'s "$HOME" `ls` \\n,\nis it?'
    data = png()
    page.evaluate(DROP, [encoded(data), "image/png", "it's mine.png"])
    (tmp_path / "it's mine.png").write_bytes(data)
    expect(page.locator("#caption")).to_be_visible()
    choose(page, "plain")
    ask(page, question)
    expect(card(page, "plain")).to_have_attribute("data-state", "done")
    wanted = {name: value for name, value in site.server.seen[-1].items() if not name.startswith("stream")}
    for label, command in (("curl", ["sh", "-c"]), ("Python", [sys.executable, "-c"])):
        card(page, "plain").get_by_role("button", name=f"Copy {label}").click()
        expect(page.locator("#live")).to_contain_text(f"Request as {label} copied")
        written = page.evaluate("navigator.clipboard.readText()")
        done = subprocess.run([*command, written], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert "plain says anything" in done.stdout, done.stderr
        assert site.server.seen[-1] == wanted
