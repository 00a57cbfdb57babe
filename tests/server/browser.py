"""A visit to the page in the machine's own Chromium, which fails when the page complains or looks elsewhere.

playwright drives it; the browsers that playwright would fetch are not used. Where one of the two is missing
the tests skip, and say what installs it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
_PATIENCE_MS = 15_000
DESKTOP, PHONE = (1280, 840), (360, 740)


@contextmanager
def running_browser() -> Iterator[Any]:
    """Chromium without a window, or a skip. While it is open playwright holds this thread's event loop."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[dev]'")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: run deploy/browser.sh as root (Debian, Ubuntu)")
    api.expect.set_options(timeout=_PATIENCE_MS)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One page in a profile of its own. `faults`: what the console said and what went to other origins."""

    page: Any
    url: str
    faults: list[str] = field(default_factory=list)
    expected_fault: str = "nothing"
    """A part of what the console may say: a browser reports each answer of 400 and more."""

    def open(self, path: str = "/") -> Any:
        """Load the page and wait until it has looked at the server."""
        self.page.goto(self.url + path)
        self.page.locator("#status:not([data-state=waiting])").wait_for()
        return self.page

    def note_request(self, request: Any) -> None:
        """Keep whatever leaves for another origin."""
        if not request.url.startswith((self.url + "/", "data:", f"blob:{self.url}/")):
            self.faults.append(f"asked {request.url}")

    def note_message(self, message: Any) -> None:
        """Keep errors and warnings of the console."""
        if message.type in ("error", "warning") and self.expected_fault not in message.text:
            self.faults.append(message.text)


@contextmanager
def visiting(browser: Any, url: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Visit]:
    """A visit; at its end the page must have had nothing to complain of."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.grant_permissions(["clipboard-read", "clipboard-write", "camera"], origin=url)
    context.set_default_timeout(_PATIENCE_MS)
    visit = Visit(context.new_page(), url)
    visit.page.on("console", visit.note_message)
    visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
    visit.page.on("request", visit.note_request)
    try:
        yield visit
    finally:
        context.close()
    assert not visit.faults, visit.faults


def ask(page: Any, question: str = "what is it?") -> None:
    """Write the question and press Enter."""
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")


def card(page: Any, task: str | None) -> Any:
    """The newest card of that task, of the base model for None."""
    return page.locator(f'.round:first-of-type .card[data-task="{task or ""}"]')


def choose(page: Any, *tasks: str | None) -> None:
    """Have these answer, None being the base model, and no others."""
    for box in page.locator("#chips input").all():
        name = box.get_attribute("data-task")
        if box.is_checked() != ((name or None) in tasks):
            page.locator("#chips label", has=page.locator(f'[data-task="{name}"]')).click()


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
