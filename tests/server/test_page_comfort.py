"""The page for everyone: keyboard alone, a phone, light and dark, nothing to show yet, too much to show."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.browser import PHONE, Visit, ask, card, choose, overflow, visiting
from tests.server.conftest import Site
from tests.server.test_page_browser import MARKUP, browser, expect, site, store

pytestmark = pytest.mark.browser

__all__ = ["browser", "site", "store"]

READABLE = 4.5
"""Least contrast of text, WCAG 2.2 AA."""


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Visit]:
    with visiting(browser, site.url) as found:
        yield found


def tab_to(page: Any, selector: str, *, most: int = 60) -> None:
    """Press Tab until the element is reached; each stop on the way must be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.count() == 1
        if focused.evaluate("(one, selector) => one.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def is_ringed(page: Any) -> bool:
    """Whether what has the focus, or what stands for it, has an outline."""
    return bool(
        page.locator(":focus").evaluate(
            "(one) => [one, one.nextElementSibling, one.parentElement].some((node) => node"
            " && !node.matches('.unseen') && getComputedStyle(node).outlineStyle !== 'none')"
        )
    )


def test_the_keyboard_alone_is_enough(visit: Visit, site: Site) -> None:
    page = visit.open()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the question")
    tab_to(page, ".example")
    assert is_ringed(page)
    page.keyboard.press("Enter")
    expect(page.locator("#caption")).to_contain_text("peacock.png")
    tab_to(page, "#chips [data-task=plain]")
    assert is_ringed(page)
    before = page.locator(":focus").is_checked()
    page.keyboard.press("Space")
    assert page.locator(":focus").is_checked() != before
    if before:
        page.keyboard.press("Space")
    tab_to(page, "#question")
    assert is_ringed(page)
    page.keyboard.press("Control+a")
    page.keyboard.type("and now?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("well?")
    page.keyboard.press("Enter")
    expect(card(page, "plain").locator(".answer")).to_have_text("plain says anything")
    assert site.server.seen[-1]["messages"][-1]["content"][-1]["text"] == "and now?\nwell?"
    tab_to(page, ".card .digest")
    assert is_ringed(page)


def test_settings_by_keyboard_and_the_key_stays_in_the_tab(visit: Visit, site: Site) -> None:
    page = visit.open()
    tab_to(page, "#open-settings")
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("a-secret")
    page.keyboard.press("Tab")
    page.keyboard.type("7")
    page.keyboard.press("Tab")
    page.keyboard.type("0.5")
    with page.expect_request("**/v1/tasks") as told:
        page.keyboard.press("Enter")
    assert told.value.headers["authorization"] == "Bearer a-secret"
    expect(page.locator("#open-settings")).to_be_focused()
    choose(page, "plain")
    ask(page)
    expect(card(page, "plain")).to_have_attribute("data-state", "done")
    body = site.server.seen[-1]
    assert (body["max_tokens"], body["temperature"]) == (7, 0.5)
    assert "a-secret" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    card(page, "plain").get_by_role("button", name="Copy curl").click()
    written = page.evaluate("navigator.clipboard.readText()")
    assert "a-secret" not in written
    assert "$PASSEPARTOUT_API_KEY" in written


def test_a_server_that_wants_a_key_is_asked_with_it(visit: Visit) -> None:
    visit.expected_fault = "status of 401"
    page = visit.page

    def guard(route: Any) -> None:
        """What vLLM's `--api-key` does, in its words."""
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "Unauthorized"})

    page.route("**/v1/**", guard)
    visit.open("/#tasks")
    expect(page.locator("#status-text")).to_have_text("An API key is wanted")
    expect(page.locator("#gallery-cards")).to_contain_text("Tasks are hidden")
    page.get_by_role("link", name="Ask", exact=True).click()
    expect(page.locator("#chips-hint")).to_have_text("Tasks are hidden until the server knows your key.")
    expect(page.locator("#notice")).to_contain_text("This server wants an API key.")
    page.get_by_role("button", name="Enter the key").click()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("The server refused this API key.")
    expect(page.locator("#status-text")).to_have_text("The API key is refused")
    expect(page.locator("#chips-hint")).to_have_text("Tasks are hidden until the server knows your key.")
    page.get_by_role("button", name="Correct the key").click()
    page.locator("#key").fill("right")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#chips-hint")).to_be_hidden()
    page.get_by_role("link", name="Tasks").click()
    expect(page.locator('article.task[data-task="framed"] canvas')).to_be_visible()
    page.get_by_role("link", name="Ask", exact=True).click()
    choose(page, "plain")
    ask(page)
    expect(card(page, "plain").locator(".answer")).to_have_text("plain says anything")


def test_a_phone_never_scrolls_sideways(browser: Any, site: Site) -> None:
    with visiting(browser, site.url, PHONE, has_touch=True) as visit:
        page = visit.open()
        assert overflow(page) == 0
        page.locator(".example").first.click()
        choose(page, None, "plain", "sly", "spoken")
        ask(page, "w" * 300)
        expect(page.locator('.card[data-state="done"]')).to_have_count(4)
        assert overflow(page) == 0
        expect(page.locator(".round h2")).to_be_in_viewport()
        page.get_by_role("link", name="Tasks").click()
        expect(page.locator("article.task")).to_have_count(5)
        assert overflow(page) == 0
        page.locator("#open-settings").click()
        box = page.locator("#settings").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE[0]


CONTRAST = """(selectors) => {
  const levels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((level) => {
    const share = level / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (colour) => levels(colour).reduce((sum, one, at) => sum + one * weights[at], 0);
  const ground = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(node.parentElement) : colour;
  };
  return selectors.map((selector) => {
    const node = document.querySelector(selector);
    const [high, low] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
    return [selector, (high + 0.05) / (low + 0.05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_in_light_and_in_dark(browser: Any, site: Site, scheme: str) -> None:
    with visiting(browser, site.url, color_scheme=scheme, reduced_motion="reduce") as visit:
        visit.expected_fault = "status of 400"
        page = visit.open()
        choose(page, "plain", "framed")
        ask(page)
        expect(page.locator('.card[data-state="failed"]')).to_have_count(1)
        selectors = [".answer", ".fault:not([hidden])", ".figures small", "button.digest", "#send"]
        selectors += [
            "#status-text",
            "nav a[aria-current]",
            "#chips :checked + span",
            ".badge",
            ".round .hint",
        ]
        low = [(one, ratio) for one, ratio in page.evaluate(CONTRAST, selectors) if ratio < READABLE]
        assert low == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", paper)[0]) < 64) == (scheme == "dark")
        assert page.locator("#send").evaluate("(one) => getComputedStyle(one).transitionDuration") == "0s"


def test_the_theme_is_turned_and_kept(visit: Visit) -> None:
    page = visit.open()
    page.locator("#theme").click()
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: dark")
    page.reload()
    expect(page.locator("html")).to_have_css("color-scheme", "dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(21, 20, 18)")


def test_what_others_wrote_stays_text(visit: Visit) -> None:
    page = visit.open()
    choose(page, "sly")
    ask(page, MARKUP)
    expect(card(page, "sly").locator(".answer")).to_have_text(f"sly says {MARKUP}")
    page.get_by_role("link", name="Tasks").click()
    expect(page.locator('article.task[data-task="framed"]')).to_contain_text(f"{MARKUP} of framed")
    expect(page.locator("#refused")).to_contain_text(MARKUP)
    expect(page.locator("#refused summary")).to_have_text("broken")
    assert page.locator("img[src=x]").count() == 0


def test_the_gallery_shows_what_the_bundles_say(visit: Visit, site: Site) -> None:
    page = visit.open("/#tasks")
    expect(page.locator("#gallery-count")).to_have_text("5 served, 5 of them on the device")
    spoken = page.locator('article.task[data-task="spoken"]')
    expect(spoken).to_contain_text("2 layers × 3 tokens")
    expect(spoken).to_contain_text("Name it: {text}!")
    expect(spoken.locator("svg .token")).to_have_count(6)
    expect(page.locator('article.task[data-task="framed"] canvas')).to_be_visible()
    spoken.get_by_role("button", name="Try spoken").click()
    expect(page.locator("#question")).to_be_focused()
    checked = page.locator("#chips :checked").evaluate_all("(all) => all.map((one) => one.dataset.task)")
    assert checked == ["", "spoken"]


def test_a_key_that_is_good_no_more_takes_the_tasks_with_it(visit: Visit) -> None:
    visit.expected_fault = "status of 401"
    page = visit.open("/#tasks")
    expect(page.locator("article.task")).to_have_count(5)
    page.route("**/v1/tasks", lambda route: route.fulfill(status=401, json={"error": "Unauthorized"}))
    page.locator("#open-settings").click()
    page.keyboard.type("of nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-cards")).to_contain_text("Tasks are hidden")
    expect(page.locator("article.task")).to_have_count(0)


def test_a_split_shows_each_version_and_its_share(visit: Visit) -> None:
    page = visit.page
    parts = [("2", "ab" * 32, 0.0996), ("1-rc", "cd" * 32, 0.0004)]

    def split(route: Any) -> None:
        listed = route.fetch().json()
        task = next(one for one in listed["data"] if one["id"] == "plain")
        shares = [("1", task["digest"], 1 - sum(share for *_, share in parts)), *parts]
        names = ("version", "digest", "share")
        task["traffic"] = [dict(zip(names, one, strict=True)) for one in shares]
        route.fulfill(json=listed)

    page.route("**/v1/tasks", split)
    page.clock.install()
    visit.open("/#tasks")
    plain = page.locator('article.task[data-task="plain"]')
    lines = plain.locator(".versions li")
    expect(lines.nth(0)).to_contain_text(re.compile(r"^90 %version 1[0-9a-f]{10}described here$"))
    expect(lines.nth(1)).to_have_text("10 %version 2ababababab")
    expect(lines.nth(2)).to_have_text("< 0.1 %version 1-rccdcdcdcdcd")
    expect(plain.locator("footer .digest")).to_have_count(0)
    expect(page.locator('article.task[data-task="spoken"] .versions')).to_have_count(0)
    expect(page.locator('article.task[data-task="spoken"] footer .digest')).to_have_count(1)
    lines.nth(1).get_by_role("button").focus()
    parts[:] = [("2", "ab" * 32, 0.5)]
    page.clock.run_for(10_000)  # the next look, while the gallery is on show
    expect(lines).to_have_count(2)
    expect(lines.nth(1)).to_have_text("50 %version 2ababababab")
    expect(lines.nth(1).get_by_role("button")).to_be_focused()


def test_measured_accuracies_are_drawn(visit: Visit) -> None:
    shipped = json.loads(Path("examples/tasks/count/bundle.json").read_text())
    page = visit.page

    def with_metrics(route: Any) -> None:
        listed = route.fetch().json()
        listed["data"][0]["metrics"] = shipped["metrics"]
        route.fulfill(json=listed)

    page.route("**/v1/tasks", with_metrics)
    visit.open("/#tasks")
    figure = page.locator(".accuracy")
    expect(figure).to_contain_text("62 %")
    expect(figure).to_contain_text("validation · structured · n = 100")
    expect(figure.get_by_label("base: 25 %, 95 % interval 18 % to 34 %")).to_be_visible()


def test_of_a_thousand_tasks_the_page_shows_few_and_finds_any(visit: Visit) -> None:
    page = visit.page

    def a_thousand(route: Any) -> None:
        one = next(task for task in route.fetch().json()["data"] if task["id"] == "plain")
        route.fulfill(json={"data": [one | {"id": f"task-{number:03}"} for number in range(1000)]})

    page.route("**/v1/tasks", a_thousand)
    visit.open()
    expect(page.locator("#chips input")).to_have_count(1 + 3 + 12)
    expect(page.locator("#chips-hint")).to_have_text("and 985 more: filter by name")
    page.locator("#filter").fill("task-77")
    expect(page.locator("#chips input")).to_have_count(1 + 3 + 10)
    page.get_by_role("link", name="Tasks").click()
    expect(page.locator("article.task")).to_have_count(60)
    page.locator("#gallery-filter").fill("task-999")
    expect(page.locator("article.task")).to_have_count(1)


def test_a_server_that_starts_is_waited_for_and_an_empty_store_explained(visit: Visit) -> None:
    visit.expected_fault = "status of 503"
    page = visit.page
    states = iter([(503, "starting"), (200, "ready")])

    def say(route: Any) -> None:
        status, state = next(states, (200, "ready"))
        route.fulfill(status=status, json={"status": state, "model": "base", "tasks": {}, "refused": []})

    page.route("**/ready", say)
    page.route("**/v1/tasks", lambda route: route.fulfill(json={"object": "list", "data": []}))
    visit.open()
    expect(page.locator("#notice")).to_contain_text("The engine is starting")
    expect(page.locator("#notice")).to_contain_text("No task is served yet")
    expect(page.locator("#chips-hint")).to_contain_text("the base model answers alone")
    page.get_by_role("link", name="Tasks").click()
    expect(page.locator("#gallery-cards")).to_contain_text("No tasks yet")
    page.get_by_role("link", name="Ask", exact=True).click()
    page.locator("#send").click()
    expect(page.locator("#ask-fault")).to_have_text("Choose a picture, or write a question.")
