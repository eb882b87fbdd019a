"""On a phone, in the dark, and without scripts (H6, H34, H35)."""

import re
import threading
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.conftest import PASSWORD
from tests.servers.provider import (
    Provider,
    hang,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)

WIDE = "\n\n".join(
    [
        "| " + " | ".join(f"column {number}" for number in range(40)) + " |\n" + "|---" * 40 + "|",
        "```python\nx = '" + "long " * 200 + "'\n```",
        "a_very_long_word_" * 60,
        "`" + "inline_code_without_a_space" * 12 + "`",
        "https://example.org/" + "path/" * 80,
        "- a\n" + "".join("  " * depth + f"- level {depth}\n" for depth in range(1, 12)),
        "> " * 8 + "deep",
        "$$" + "x + y = " * 60 + "z$$",
        "# " + "A heading that goes on " * 12,
    ]
)

SIDEWAYS = """() => {
  const most = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")].filter((e) => {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height) return false;
    if (e.closest(".visually-hidden, [data-drawer-panel], svg")) return false;
    const scroller = e.parentElement.closest("pre, .table-scroll, .code-block, .math-display");
    return box.right > most + 1 && !scroller;
  }).map((e) => e.outerHTML.slice(0, 80));
}"""

SMALL_BUTTONS = """() => [...document.querySelectorAll("button, summary, a.icon-button, select")]
  .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest("[inert]"))
  .map((e) => [e.getAttribute("aria-label") || e.textContent.trim(), e.getBoundingClientRect()])
  .filter(([, box]) => box.width && box.height && box.right > 0 && box.left < innerWidth)
  .filter(([, box]) => box.width < 44 || box.height < 44)
  .map(([name, box]) => `${name}: ${Math.round(box.width)} x ${Math.round(box.height)}`)"""

LUMINANCE = """node => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = getComputedStyle(node).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


# Texts whose contrast to what is behind them is below 4.5 (3 for large ones), as WCAG counts it.
FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], under) =>
    [r, g, b].map((value, i) => (value * a + under[i] * (255 - a)) / 255);
  const linear = (value) =>
    value <= 10.31 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = (color) => {
    const [r, g, b] = color.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const below = element.parentElement ? behind(element.parentElement) : rgba("Canvas");
    return over(rgba(getComputedStyle(element).backgroundColor), below);
  };
  const seen = { opacityProperty: true, visibilityProperty: true };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const words = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!words || !element.checkVisibility(seen)) continue;
    if (element.closest(".visually-hidden, .skip-link, :disabled, [inert]")) continue;
    const style = getComputedStyle(element);
    const under = behind(element);
    const pair = [luminance(over(rgba(style.color), under)), luminance(under)];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (contrast >= (isLarge ? 3 : 4.5)) continue;
    found.add(`${element.className || element.tagName} ${contrast.toFixed(2)}: ${words}`);
  }
  return [...found];
}"""


def nothing_scrolls_sideways(page: Page) -> None:
    assert page.evaluate("() => document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => (window.scrollTo(500, 0), window.scrollX)") == 0
    transcript = page.locator("[data-scroll]")
    assert transcript.evaluate("frame => frame.scrollWidth <= frame.clientWidth")
    assert page.evaluate(SIDEWAYS) == []


@pytest.mark.contract("H35")
def test_on_a_phone_nothing_scrolls_sideways_however_wide_the_answer(
    phone: Page, openai: Configuration, provider: Provider
):
    chat = Chat(phone).open("/")
    nothing_scrolls_sideways(phone)
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk(WIDE)), until(gate), *END)
    chat.ask("w" * 300 + "\n\n" + WIDE[:1000])
    expect(chat.text.get_by_role("heading")).to_contain_text("A heading that goes on")
    nothing_scrolls_sideways(phone)
    gate.set()
    chat.is_done()
    expect(chat.facts).to_be_visible()
    nothing_scrolls_sideways(phone)
    chat.open_parameters()
    nothing_scrolls_sideways(phone)
    # The table and the code do, each by itself.
    for wide in (".table-scroll", "pre"):
        assert chat.text.locator(wide).first.evaluate("e => e.scrollWidth > e.clientWidth"), wide


@pytest.mark.contract("H35")
def test_on_a_phone_the_chats_are_a_drawer_and_the_monitor_is_a_sheet(
    phone: Page, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("fine"))
    chat = Chat(phone).open("/").ask("hello")
    chat.is_done()
    sidebar = phone.locator("#sidebar")
    expect(sidebar).not_to_be_in_viewport()
    phone.get_by_role("button", name="Show the chats").tap()
    expect(sidebar).to_be_in_viewport()
    expect(chat.chats.get_by_role("link", name="hello")).to_be_visible()
    phone.locator("[data-scrim]").tap(position={"x": 360, "y": 400})
    expect(sidebar).not_to_be_in_viewport()
    phone.get_by_role("button", name="Show the chats").tap()
    phone.keyboard.press("Escape")
    expect(sidebar).not_to_be_in_viewport()

    monitor = phone.locator("#monitor")
    expect(monitor).not_to_be_in_viewport()
    chat.answer.get_by_role("link", name="Details").tap()
    expect(monitor).to_be_in_viewport()
    expect(chat.inspector).to_contain_text("Full request body")
    nothing_scrolls_sideways(phone)
    phone.get_by_role("button", name="Close the request").tap()
    expect(monitor).not_to_be_in_viewport()
    phone.get_by_role("button", name="Show the chats").tap()
    phone.get_by_role("button", name="New chat", exact=True).tap()
    expect(chat.questions).to_have_count(0)
    expect(sidebar).not_to_be_in_viewport()


@pytest.mark.contract("H35")
def test_on_a_phone_buttons_are_large_enough_for_a_thumb(
    phone: Page, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("fine\n\n```python\nx\n```"))
    chat = Chat(phone).open("/").ask("hello")
    chat.is_done()
    small = phone.evaluate(SMALL_BUTTONS)
    phone.get_by_role("button", name="Show the chats").tap()
    expect(phone.locator("#sidebar")).to_be_in_viewport()
    small += phone.evaluate(SMALL_BUTTONS)
    assert small == []


@pytest.mark.contract("H35")
def test_on_a_phone_a_message_is_sent_and_stopped_by_touch(
    phone: Page, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("Some text")), hang())
    chat = Chat(phone).open("/")
    chat.box.tap()
    chat.box.fill("hello")
    chat.send_button.tap()
    expect(chat.text).to_have_text("Some text")
    expect(chat.box).to_be_in_viewport()
    # After half a second it is no longer the second half of a double tap.
    elapsed = re.compile(r"(0\.[5-9]|[1-9]\.\d) s$")
    expect(chat.answer.locator("[data-live-text]")).to_have_text(elapsed)
    chat.stop_button.tap()
    chat.is_done("stopped")
    expect(chat.text).to_have_text("Some text")


@pytest.mark.contract("H34")
def test_on_a_dark_system_the_page_is_dark_from_its_first_paint(
    open_browser: Callable[..., BrowserContext], ada_user: User, openai: Configuration
):
    # Without scripts: what is seen before any of them has run.
    page = open_browser(ada_user, color_scheme="dark", java_script_enabled=False).new_page()
    page.goto("/")
    assert page.locator("body").evaluate(LUMINANCE) < 0.15
    page = open_browser(ada_user, color_scheme="light", java_script_enabled=False).new_page()
    page.goto("/")
    assert page.locator("body").evaluate(LUMINANCE) > 0.85


@pytest.mark.contract("H34")
def test_a_theme_is_switched_at_once_and_comes_with_the_page_from_then_on(chat: Chat):
    page = chat.page
    assert page.locator("body").evaluate(LUMINANCE) > 0.85
    for theme, is_right in (
        ("Dark", lambda value: value < 0.15),
        ("Light", lambda value: value > 0.85),
    ):
        page.get_by_role("button", name="Account and settings").click()
        page.locator("label").filter(has_text=re.compile(rf"^\s*{theme}\s*$")).click()
        expect(page.locator("html")).to_have_attribute("data-theme", theme.lower())
        assert is_right(page.locator("body").evaluate(LUMINANCE))
        answer = page.reload()
        assert answer
        html = answer.text()
        assert f'data-theme="{theme.lower()}"' in html
        assert f'<meta name="color-scheme" content="{theme.lower()}">' in html
        chat.ready()
        assert is_right(page.locator("body").evaluate(LUMINANCE))


@pytest.mark.contract("H34")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(
    open_browser: Callable[..., BrowserContext],
    ada_user: User,
    openai: Configuration,
    provider: Provider,
    scheme: str,
):
    page = open_browser(ada_user, color_scheme=scheme).new_page()
    chat = Chat(page).open("/")
    provider.reply(
        *openai_answer("Text `code`\n\n```python\nimport os  # why\n```\n\n|a|\n|-|\n|b|")
    )
    chat.ask("hello")
    chat.is_done()
    provider.reply(head(401, "application/json"), send("{}"))
    chat.ask("fail")
    chat.is_done("error")
    chat.open_monitor()
    expect(chat.inspector).to_contain_text("Full request body")
    assert page.evaluate(FAINT) == []


@pytest.mark.contract("C12")
def test_without_scripts_a_message_can_still_be_sent_and_its_answer_read(
    open_browser: Callable[..., BrowserContext],
    ada_user: User,
    openai: Configuration,
    provider: Provider,
):
    page = open_browser(java_script_enabled=False).new_page()
    page.goto("/")
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    provider.reply(*openai_answer("It works **without**."))
    page.get_by_role("textbox", name="Message", exact=True).fill("hello")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("[data-entry=user]")).to_contain_text("hello")
    provider.wait_for_request()
    text = page.locator("[data-blocks]")
    for _ in range(20):
        page.reload()
        if text.count() and text.inner_text().strip():
            break
    expect(text.locator("strong")).to_have_text("without")


@pytest.mark.contract("H6")
def test_the_page_does_not_jump_when_an_answer_begins_grows_and_ends(
    chat: Chat, openai: Configuration, provider: Provider
):
    gates = [threading.Event() for _ in range(3)]
    provider.reply(
        head(),
        until(gates[0]),
        send(openai_chunk("One paragraph.\n\n")),
        until(gates[1]),
        send(openai_chunk("- a list\n- of two\n\n")),
        until(gates[2]),
        *END,
    )
    chat.ask("hello")
    expect(chat.waiting).to_contain_text("tokens in")

    def places() -> list[float]:
        parts = [chat.questions.first, chat.block(0), chat.box]
        boxes = [part.bounding_box() for part in parts if part.count()]
        return [box["y"] for box in boxes if box]

    start = places()
    gates[0].set()
    expect(chat.block(0)).to_have_text("One paragraph.")
    with_text = places()
    assert [with_text[0], with_text[2]] == pytest.approx([start[0], start[-1]], abs=1)
    gates[1].set()
    expect(chat.text.locator("li")).to_have_count(2)
    assert places() == pytest.approx(with_text, abs=1)
    gates[2].set()
    chat.is_done()
    expect(chat.facts).to_contain_text("out")
    assert places() == pytest.approx(with_text, abs=1)
