"""The console and the inspector beside the chat tell the truth (M1, M2, H41)."""

import hashlib
import json
import re
import shlex
import threading

import pytest
from playwright.sync_api import Locator, Page, expect

from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.browser.watch import Watch
from tests.servers.provider import Provider, head, openai_answer, openai_chunk, send, until

TRICKY = "Ünï “quotes” \\ 日本 </script> &amp; 🎉"
SECTIONS = [
    "Metadata",
    "Parameters",
    "System instructions",
    "Context messages",
    "Current prompt",
    "Full request body",
    "On the wire",
    "Difference",
    "Replay",
]


@pytest.fixture
def watched(chat: Chat) -> Chat:
    """A chat with the monitor open, which may use the clipboard."""
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return chat.open_monitor()


def section(chat: Chat, name: str) -> Locator:
    return chat.inspector.locator(f'[data-section="{name}"]')


def shows_exactly(chat: Chat, body: bytes) -> None:
    """What is shown and what is copied is the body that went to the provider."""
    shown = section(chat, "body").locator("pre").first
    expect(shown).to_be_visible()
    assert json.loads(shown.inner_text()) == json.loads(body)
    copied = section(chat, "body").get_by_role("button", name="Copy", exact=True)
    copied.click()
    expect(section(chat, "body").locator(".is-copied")).to_have_text("Copied")
    assert chat.clipboard().encode() == body
    section(chat, "body").get_by_role("button", name="Copy as curl").click()
    expect(section(chat, "body").locator(".is-copied")).to_have_count(2)
    command = shlex.split(chat.clipboard())
    assert command[command.index("--data-raw") + 1].encode() == body
    assert "sk-marked" not in chat.clipboard()


@pytest.mark.contract("M2")
@pytest.mark.contract("H41")
def test_the_inspector_shows_live_and_later_exactly_what_was_sent(
    watched: Chat, openai: Configuration, provider: Provider
):
    chat = watched
    openai.system_instructions = "Be brief. <b>“Ünï”</b>"
    openai.save()
    provider.reply(*openai_answer("first answer"))
    chat.ask("first " + TRICKY)
    chat.is_done()
    gate = threading.Event()
    provider.reply(head(), until(gate), send(openai_chunk("second answer")), *END)
    chat.open_parameters()
    chat.parameter("Temperature").fill("0.5")
    chat.ask("second")
    first, second = provider.wait_for_request(1).body, provider.wait_for_request(2).body

    # While the provider has not said a word.
    expect(chat.inspector).to_contain_text("2 sent")
    shows_exactly(chat, second)
    expect(chat.inspector.locator("[data-section] h3")).to_have_text(SECTIONS)
    expect(section(chat, "metadata")).to_contain_text(f"{provider.url}/v1/chat/completions")
    expect(section(chat, "parameters")).to_contain_text("0.5")
    section(chat, "system").locator("summary").click()
    expect(section(chat, "system")).to_contain_text("Be brief. <b>“Ünï”</b>")
    section(chat, "context").locator("summary").click()
    expect(section(chat, "context").locator("tbody tr")).to_have_count(2)
    expect(section(chat, "context").locator("tbody tr").first).to_contain_text(TRICKY)
    section(chat, "prompt").locator("summary").click()
    expect(section(chat, "prompt").locator("[data-copy-text]")).to_have_text("second")
    gate.set()
    chat.is_done()
    expect(chat.inspector).to_contain_text("Total time")
    # Folded as the reader left it, though the content is new.
    expect(section(chat, "system")).to_have_attribute("open", "")
    shows_exactly(chat, second)

    for _ in range(2):
        chat.answers.first.get_by_role("link", name="Details").click()
        expect(chat.inspector).to_contain_text("0 sent")
        shows_exactly(chat, first)
        chat.answer.get_by_role("link", name="Details").click()
        expect(chat.inspector).to_contain_text("2 sent")
        shows_exactly(chat, second)
        chat.reload()


@pytest.mark.contract("M2")
def test_details_opens_the_monitor_and_has_a_page_of_its_own(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("fine"))
    chat.ask("hello")
    chat.is_done()
    monitor = chat.page.get_by_role("complementary", name="Monitor")
    expect(monitor).to_be_hidden()
    details = chat.answer.get_by_role("link", name="Details")
    details.click()
    expect(monitor).to_be_visible()
    expect(chat.inspector).to_contain_text("double-1")
    with chat.page.context.expect_page() as opened:
        details.click(modifiers=["Control"])
    page = opened.value
    expect(page.get_by_role("heading", level=1)).to_have_text("double-1")
    shown = page.locator('[data-section="body"] pre').first
    assert json.loads(shown.inner_text()) == provider.requests[0].json
    page.get_by_role("link", name="Back to the chat").click()
    expect(page).to_have_url(chat.page.url)


@pytest.mark.contract("M1")
def test_the_console_has_one_line_for_each_event(
    watched: Chat, openai: Configuration, provider: Provider
):
    chat = watched
    provider.reply(*openai_answer("Hel", "lo", reasoning=["hm"], pause=0.02))
    chat.ask("hello")
    chat.is_done()
    lines = chat.console.get_by_role("listitem")
    expect(lines).to_have_count(7)
    expect(lines).to_have_text(
        [
            re.compile(pattern)
            for pattern in (
                r"^\d\d:\d\d:\d\d\.\d{3}infoStream started, run [0-9a-f]{8}$",
                r"info≈\d+ tokens in, 0 earlier messages$",
                r"infoRequest to openai: double-1$",
                r"infoThinking$",
                r"infoFirst chunk seen after \d+\.\d\d s$",
                r"successCompleted: 11 \+ 7 tokens, \$0\.000025, "
                r"\d+\.\d\d s, first chunk \d+\.\d\d s$",
                r"infoText complete: 5 characters, checked$",
            )
        ]
    )
    chat.page.get_by_role("button", name="Copy the console").click()
    expect(chat.page.get_by_role("button", name="Copied")).to_be_visible()
    copied = chat.clipboard()
    assert len(copied.splitlines()) == 7
    assert "\tinfo\tRequest to openai: double-1\n" in copied
    with chat.page.expect_download() as download:
        chat.page.get_by_role("button", name="Download the console").click()
    assert re.fullmatch(r"console-[\dT-]+\.txt", download.value.suggested_filename)
    assert download.value.path().read_text() == copied + "\n"
    chat.page.get_by_role("button", name="Clear the console").click()
    expect(lines).to_have_count(0)
    expect(chat.page.locator("[data-console-empty]")).to_be_visible()


@pytest.mark.contract("M1")
def test_the_console_tells_stops_and_errors(
    watched: Chat, openai: Configuration, provider: Provider
):
    chat = watched
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk("text")), until(gate))
    chat.ask("stop this")
    expect(chat.text).to_have_text("text")
    chat.stop_button.click()
    chat.is_done("stopped")
    expect(chat.console.locator("[data-level=warning]")).to_contain_text("Stopped: ≈")
    provider.reply(head(401, "application/json"), send('{"error":{"message":"no"}}'))
    chat.ask("fail")
    chat.is_done("error")
    expect(chat.console.locator("[data-level=error]")).to_contain_text("API_KEY_INVALID: ")


@pytest.mark.contract("M2")
def test_an_administrator_finds_the_monitor_open_and_both_remember_what_they_chose(
    page: Page, openai: Configuration, ada_user
):
    monitor = page.get_by_role("complementary", name="Monitor")
    toggle = page.get_by_role("button", name="Monitor", exact=True)
    chat = Chat(page).open("/")
    expect(monitor).to_be_hidden()
    ada_user.is_staff = True
    ada_user.save()
    chat.reload()
    expect(monitor).to_be_visible()
    expect(chat.inspector).to_contain_text("No request chosen.")
    toggle.click()
    expect(monitor).to_be_hidden()
    chat.reload()
    expect(monitor).to_be_hidden()


@pytest.mark.contract("M2")
def test_the_monitor_is_made_wider_with_the_keyboard_and_by_dragging(watched: Chat):
    page = watched.page
    monitor = page.get_by_role("complementary", name="Monitor")
    resizer = page.get_by_role("separator", name="Width of the monitor")

    def width() -> float:
        box = monitor.bounding_box()
        assert box
        return box["width"]

    before = width()
    resizer.focus()
    page.keyboard.press("ArrowLeft")
    assert width() == pytest.approx(before + 16, abs=1)
    place = resizer.bounding_box()
    assert place
    page.mouse.move(place["x"] + place["width"] / 2, 400)
    page.mouse.down()
    page.mouse.move(900, 400)
    page.mouse.up()
    assert width() == pytest.approx(540, abs=8)
    watched.reload()
    assert width() == pytest.approx(540, abs=8)


@pytest.mark.contract("M2")
def test_the_record_the_difference_and_a_replay_are_one_click_away(
    watched: Chat, openai: Configuration, provider: Provider
):
    chat = watched
    gate = threading.Event()
    for answer in ("first answer", "second answer"):
        provider.reply(*openai_answer(answer))
        chat.ask(f"give the {answer}")
        expect(chat.text).to_have_text(answer)
        chat.is_done()
    expect(chat.inspector).to_contain_text("Total time")
    section(chat, "wire").locator("summary").click()
    digest = hashlib.sha256(provider.requests[-1].body).hexdigest()
    expect(section(chat, "wire")).to_contain_text(digest)
    expect(section(chat, "wire").locator(".timeline")).to_contain_text("second answer")
    section(chat, "difference").locator("summary").click()
    expect(section(chat, "difference").locator(".line-added").first).to_be_visible()

    section(chat, "replay").locator("summary").first.click()
    provider.reply(head(), send(openai_chunk("replayed ")), until(gate), *openai_answer("text")[1:])
    chat.page.get_by_role("button", name="Send unchanged").click()
    replay = chat.page.locator(".replay").nth(1)
    expect(replay).to_contain_text("replayed ")
    gate.set()
    expect(replay.locator(".block")).to_have_text("replayed text")
    expect(replay).to_contain_text("same body")
    expect(chat.page.locator(".replay").first).to_contain_text("second answer")
    assert provider.requests[-1].body == provider.requests[-2].body


@pytest.mark.contract("M2")
def test_a_body_that_is_no_json_is_refused_where_it_was_typed(
    watched: Chat, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("422")
    chat = watched
    provider.reply(*openai_answer("an answer"))
    chat.ask("hello").is_done()
    expect(chat.inspector).to_contain_text("Total time")
    replay = section(chat, "replay")
    replay.locator("summary").first.click()
    replay.get_by_text("Edit the body").click()
    replay.get_by_role("textbox", name="Body").fill("{")
    chat.page.get_by_role("button", name="Send edited").click()
    expect(replay.get_by_role("alert")).to_contain_text("This is not valid JSON")
    expect(replay.get_by_role("textbox", name="Body")).to_have_value("{")
