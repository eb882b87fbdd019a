"""An answer from the first sign to its facts, in one tab and in several (H6, H9 to H11, H13)."""

import re
import threading
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from conversations.models import ChatSession, Message
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.servers.provider import (
    Provider,
    Step,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)

MARKDOWN = sorted((Path(__file__).parents[1] / "samples" / "markdown").glob("*.md"))


def in_steps(*pieces: str) -> tuple[list[threading.Event], list[Step]]:
    """An answer that waits for a gate before each piece and before its end."""
    gates = [threading.Event() for _ in [*pieces, "the end"]]
    steps: list[Step] = [head()]
    for gate, piece in zip(gates, pieces, strict=False):
        steps += [until(gate), send(openai_chunk(piece))]
    return gates, [*steps, until(gates[-1]), *END]


@pytest.mark.contract("C3")
@pytest.mark.contract("H6")
def test_an_answer_goes_from_a_waiting_line_over_growing_text_to_its_facts(
    chat: Chat, openai: Configuration, provider: Provider
):
    openai.max_tokens = 100
    openai.save()
    gates, steps = in_steps("First para", "graph.\n\n", "- one\n- two\n")
    provider.reply(*steps)
    chat.reload().ask("hello")
    expect(chat.waiting).to_have_text(
        re.compile(r"^Waiting for double-1 · \d+\.\d s · ≈\d+ tokens in$")
    )
    at_first = chat.waiting.inner_text()
    expect(chat.waiting).not_to_have_text(at_first)
    expect(chat.text).to_have_text("")

    gates[0].set()
    expect(chat.text).to_have_text("First para")
    expect(chat.waiting).to_be_hidden()
    expect(chat.answer.locator("[data-live-text]")).to_have_text(
        re.compile(r"^\d+ tokens( · [\d.]+ tokens/s)? · \d+\.\d s$")
    )
    expect(chat.answer.get_by_role("progressbar")).to_be_visible()
    gates[1].set()
    expect(chat.text).to_have_text("First paragraph.")
    gates[2].set()
    expect(chat.text.locator("li")).to_have_text(["one", "two"])
    expect(chat.answer).to_have_attribute("data-status", "running")

    gates[3].set()
    chat.is_done()
    expect(chat.facts).to_contain_text("double-1")
    expect(chat.facts).to_contain_text("7 out")
    expect(chat.facts).to_contain_text("$0.000025")
    expect(chat.facts).to_contain_text(re.compile(r"\d+\.\d s"))
    expect(chat.facts.get_by_role("link", name="Details")).to_be_visible()
    expect(chat.page.locator("[data-totals]")).to_have_text("18 tokens$0.000025")
    expect(chat.send_button).to_be_visible()


@pytest.mark.contract("C3")
def test_a_finished_block_is_never_touched_again(
    chat: Chat, openai: Configuration, provider: Provider
):
    pieces = [
        "One **bold**.\n\n",
        "```python\nx = 1\n```\n\n",
        "- a\n- b\n\n",
        "| a |\n|---|\n| 1 |\n",
    ]
    gates, steps = in_steps(*pieces)
    provider.reply(*steps)
    chat.ask("hello")
    for index, gate in enumerate(gates[:-1]):
        gate.set()
        expect(chat.block(index)).not_to_be_empty()
        if index:
            # The one before is finished: what comes later leaves every node of it alone.
            chat.block(index - 1).evaluate(
                "block => [block, ...block.querySelectorAll('*')].forEach((n) => (n.mark = 1))"
            )
    gates[-1].set()
    chat.is_done()
    for index in range(3):
        assert chat.block(index).evaluate(
            "block => [block, ...block.querySelectorAll('*')].every((n) => n.mark === 1)"
        ), f"block {index} was replaced"


@pytest.mark.contract("A1")
@pytest.mark.contract("H21")
def test_the_page_after_a_stream_is_the_page_after_a_reload(
    chat: Chat, openai: Configuration, provider: Provider
):
    for sample in MARKDOWN:
        text = sample.read_bytes().decode()
        pieces = [text[start : start + 37] for start in range(0, len(text), 37)]
        provider.reply(*openai_answer(*pieces))
        chat.ask(f"Show me `{sample.stem}`")
        expect(chat.answers).to_have_count(MARKDOWN.index(sample) + 1)
        chat.is_done()
        expect(chat.send_button).to_be_visible()
    streamed, facts, asked = (
        chat.blocks(),
        chat.page.locator(".facts-text").all_inner_texts(),
        chat.questions.locator("[data-text]").all_inner_texts(),
    )
    chat.reload()
    assert chat.blocks() == streamed
    assert chat.page.locator(".facts-text").all_inner_texts() == facts
    assert chat.questions.locator("[data-text]").all_inner_texts() == asked


@pytest.mark.contract("C4")
@pytest.mark.contract("H24")
def test_reasoning_is_folded_timed_and_apart_from_the_answer(
    chat: Chat, openai: Configuration, provider: Provider
):
    gate = threading.Event()
    provider.reply(
        head(),
        send(openai_chunk(reasoning="Let me <b>think</b>")),
        until(gate),
        send(openai_chunk("42")),
        *END,
    )
    chat.ask("hello")
    thinking = chat.answer.locator("[data-thinking]")
    expect(thinking).to_contain_text(re.compile(r"Thinking · \d+\.\d s"))
    expect(chat.waiting).to_contain_text("double-1 is thinking")
    gate.set()
    chat.is_done()
    expect(thinking).to_contain_text(re.compile(r"Thought for \d+\.\d s"))
    expect(thinking).not_to_have_attribute("open", "")
    thinking.locator("summary").click()
    expect(thinking.locator("[data-thinking-text]")).to_have_text("Let me <b>think</b>")
    expect(chat.text).to_have_text("42")
    chat.reload()
    expect(thinking).to_contain_text(re.compile(r"Thought for \d+\.\d s"))
    expect(thinking.locator("[data-thinking-text]")).to_have_text("Let me <b>think</b>")


@pytest.mark.contract("S10")
@pytest.mark.contract("H9")
def test_a_reload_in_mid_stream_has_all_text_so_far_and_goes_on(
    chat: Chat, openai: Configuration, provider: Provider
):
    gates, steps = in_steps("# Title\n\nOne", " two", " three")
    provider.reply(*steps)
    chat.ask("hello")
    gates[0].set()
    gates[1].set()
    expect(chat.block(1)).to_have_text("One two")
    chat.reload()
    expect(chat.questions).to_have_count(1)
    expect(chat.block(0)).to_have_text("Title")
    expect(chat.block(1)).to_have_text("One two")
    expect(chat.stop_button).to_be_visible()
    gates[2].set()
    expect(chat.block(1)).to_have_text("One two three")
    gates[3].set()
    chat.is_done()
    expect(chat.block(0)).to_have_text("Title")
    expect(chat.block(1)).to_have_text("One two three")
    expect(chat.text.locator("> .block")).to_have_count(2)
    assert len(provider.requests) == 1


@pytest.mark.contract("S10")
@pytest.mark.contract("H11")
def test_a_second_tab_follows_live_and_its_stop_stops_both(
    chat: Chat, window: BrowserContext, openai: Configuration, provider: Provider
):
    gates, steps = in_steps("One", " two", " three")
    provider.reply(*steps)
    chat.ask("hello")
    gates[0].set()
    expect(chat.text).to_have_text("One")
    second = Chat(window.new_page()).open(chat.page.url)
    expect(second.text).to_have_text("One")
    gates[1].set()
    expect(second.text).to_have_text("One two")
    expect(chat.text).to_have_text("One two")
    second.stop_button.click()
    for tab in (chat, second):
        tab.is_done("stopped")
        expect(tab.text).to_have_text("One two")
        expect(tab.answer).to_contain_text("Stopped by you")
        expect(tab.send_button).to_be_visible()
    provider.wait_for_close()
    assert len(provider.requests) == 1


@pytest.mark.contract("C9")
@pytest.mark.contract("H10")
def test_two_chats_stream_at_the_same_time_and_do_not_touch_each_other(
    chat: Chat, window: BrowserContext, openai: Configuration, provider: Provider
):
    gates, steps = in_steps("apple", " pie")
    other_gates, other_steps = in_steps("banana", " split")
    provider.reply(*steps)
    provider.reply(*other_steps)
    chat.ask("about apples")
    gates[0].set()
    expect(chat.text).to_have_text("apple")

    other = Chat(window.new_page()).open("/")
    other.page.get_by_role("button", name="New chat", exact=True).click()
    expect(other.questions).to_have_count(0)
    other.ready().ask("about bananas")
    other_gates[0].set()
    expect(other.text).to_have_text("banana")
    running = other.chats.locator("[data-running]")
    expect(running).to_have_count(2)

    gates[1].set()
    expect(chat.text).to_have_text("apple pie")
    gates[2].set()
    chat.is_done()
    expect(other.text).to_have_text("banana")
    expect(other.answer).to_have_attribute("data-status", "running")
    expect(running).to_have_count(1, timeout=12_000)
    expect(running).to_contain_text("about bananas")

    other.chats.get_by_role("link", name="about apples").click()
    expect(other.text).to_have_text("apple pie")
    other_gates[1].set()
    other.chats.get_by_role("link", name="about bananas").click()
    expect(other.text).to_have_text("banana split")
    other_gates[2].set()
    other.is_done()
    expect(other.text).to_have_text("banana split")
    expect(chat.text).to_have_text("apple pie")
    expect(running).to_have_count(0)


@pytest.mark.contract("C6")
@pytest.mark.contract("H13")
@pytest.mark.parametrize("how", ["wheel", "keyboard"])
def test_who_scrolls_up_stays_there_and_is_told_what_is_new(
    chat: Chat, openai: Configuration, provider: Provider, how: str
):
    long_text = "".join(f"Paragraph {number}.\n\n" for number in range(60))
    gates, steps = in_steps(long_text, "New one.\n\nNew two.\n\n", "Last.")
    provider.reply(*steps)
    chat.ask("hello")
    gates[0].set()
    expect(chat.block(59)).to_be_in_viewport()
    frame = chat.page.locator("[data-scroll]")
    if how == "wheel":
        frame.hover()
        chat.page.mouse.wheel(0, -1500)
    else:
        frame.press("Home")
        frame.evaluate(  # it glides there
            "f => f.scrollTop && new Promise((done) => (f.onscrollend = () => done(0)))"
        )
    to_bottom = chat.page.locator("[data-to-bottom]")
    expect(to_bottom).to_be_visible()
    expect(chat.block(59)).not_to_be_in_viewport()
    place = frame.evaluate("frame => frame.scrollTop")
    gates[1].set()
    expect(to_bottom).to_have_text("2 new blocks")
    assert frame.evaluate("frame => frame.scrollTop") == place
    to_bottom.click()
    expect(chat.block(61)).to_be_in_viewport()
    expect(to_bottom).to_be_hidden()
    gates[2].set()
    expect(chat.block(62)).to_be_in_viewport()
    gates[3].set()
    chat.is_done()
    expect(chat.facts).to_be_in_viewport()


@pytest.mark.contract("C8")
def test_with_streaming_switched_off_the_answer_comes_at_once(
    chat: Chat, openai: Configuration, provider: Provider
):
    page = chat.page
    page.get_by_role("button", name="Account and settings").click()
    with page.expect_response("**/preferences/"):
        page.get_by_text("Stream answers").click()
    page.keyboard.press("Escape")
    gates, steps = in_steps("All ", "**at once**")
    provider.reply(*steps)
    chat.ask("hello")
    for gate in gates[:2]:
        gate.set()
    expect(chat.waiting).to_contain_text("Waiting for double-1")
    expect(chat.text).to_have_text("")
    gates[2].set()
    chat.is_done()
    expect(chat.text.locator("strong")).to_have_text("at once")
    expect(chat.facts).to_contain_text("7 out")
    expect(page.locator("[data-totals]")).to_contain_text("18 tokens")
    blocks = chat.blocks()
    chat.reload()
    assert chat.blocks() == blocks
    page.get_by_role("button", name="Account and settings").click()
    expect(page.get_by_label("Stream answers")).not_to_be_checked()


@pytest.mark.contract("H39")
def test_a_chat_of_500_messages_opens_at_its_end(page: Page, openai: Configuration, ada_user: User):
    session = ChatSession.objects.create(user=ada_user, title="Long")
    text = "A paragraph with `code` and **weight**.\n\n- one\n- two\n\n```python\nx = 1\n```\n"
    parent = None
    for number in range(500):
        role = "assistant" if number % 2 else "user"
        parent = Message.objects.create(session=session, parent=parent, role=role, content=text)
    chat = Chat(page)
    chat.open("/")
    page.goto(session.get_absolute_url(), wait_until="commit")
    expect(chat.answers).to_have_count(250)
    expect(chat.answer).to_be_in_viewport()
