"""An answer that was cut off goes on in its place, in the page as well (issue 3)."""

import re
import threading

from playwright.sync_api import Route, expect

from conversations.models import Message
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.servers.provider import Provider, close, head, openai_chunk, send, until


def test_what_an_answer_has_stays_untouched_while_it_goes_on(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(
        head(),
        send(openai_chunk(reasoning="A tale, then.")),
        send(openai_chunk("# Title\n\nIt was a dark and")),
        close(),
    )
    chat.open_monitor().ask("tell me")
    chat.is_done("error")
    expect(chat.block(1)).to_have_text("It was a dark and")
    chat.page.get_by_role("button", name="Clear").click()
    gates = [threading.Event(), threading.Event()]
    provider.reply(head(), until(gates[0]), send(openai_chunk(" stormy")), until(gates[1]), *END)
    streams: list[Route] = []
    # The network takes its time.
    chat.page.route("**/events/**", lambda route: streams.append(route))
    chat.page.route("**/continue/", lambda route: streams.append(route))
    button = chat.answer.locator("[data-continue]")
    button.click()
    expect(button).to_have_text("Continuing")
    expect(chat.stop_button).to_be_visible()
    streams.pop().continue_()

    expect(chat.waiting).to_contain_text("Waiting for double-1")
    expect(chat.stop_button).to_be_visible()
    expect(chat.failure).to_have_count(0)
    expect(chat.text.locator("> .block")).to_have_text(["Title", "It was a dark and"])
    chat.block(0).evaluate("block => (block.firstElementChild.mark = 1)")
    streams[0].continue_()
    expect(chat.console).to_contain_text("Goes on with an answer of ≈")
    expect(chat.text.locator("> .block")).to_have_text(["Title", "It was a dark and"])
    thinking = chat.answer.locator("[data-thinking-text]")
    expect(thinking).to_have_text("A tale, then.")
    assert chat.console.get_by_text("First chunk").count() == 0

    gates[0].set()
    expect(chat.block(1)).to_have_text("It was a dark and stormy")
    expect(chat.waiting).to_be_hidden()
    expect(chat.answer.locator("[data-live-text]")).to_have_text(re.compile(r"^\d+ tokens"))
    expect(chat.console).to_contain_text("First chunk seen")
    gates[1].set()
    chat.is_done()
    expect(chat.text.locator("> .block")).to_have_text(["Title", "It was a dark and stormy"])
    assert chat.block(0).evaluate("block => block.firstElementChild.mark") == 1
    expect(thinking).to_have_text("A tale, then.")
    expect(chat.console).to_contain_text("Text complete: 33 characters, checked")
    assert len(Message.objects.get(role="assistant").content) == 33
    blocks = chat.blocks()
    chat.reload()
    assert chat.blocks() == blocks
    expect(chat.answers).to_have_count(1)


def test_blocks_that_become_one_again_are_not_shown_twice(
    chat: Chat, openai: Configuration, provider: Provider
):
    """What ends a text may be several blocks, which are one open block while it is written."""
    provider.reply(head(), send(openai_chunk("- one\n\n  more\n- two\n\nand")), close())
    chat.ask("tell me")
    chat.is_done("error")
    before = chat.blocks()
    assert len(before) > 1
    gate = threading.Event()
    provider.reply(head(), until(gate), send(openai_chunk(" so on")), *END)
    chat.answer.get_by_role("button", name="Continue").click()
    expect(chat.waiting).to_contain_text("tokens in")
    expect(chat.text).to_have_text(re.compile(r"^\s*one\s*more\s*two\s*and\s*$"))
    gate.set()
    chat.is_done()
    expect(chat.text).to_have_text(re.compile(r"^\s*one\s*more\s*two\s*and so on\s*$"))


def test_a_reload_while_it_goes_on_shows_all_of_it_once(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("One.\n\nTw")), close())
    chat.ask("tell me")
    chat.is_done("error")
    gate = threading.Event()
    provider.reply(
        head(), send(openai_chunk("o.\n\nThree, f")), until(gate), send(openai_chunk("our.")), *END
    )
    chat.answer.get_by_role("button", name="Continue").click()
    expect(chat.text.locator("> .block")).to_have_text(["One.", "Two.", "Three, f"])
    chat.reload()
    expect(chat.text.locator("> .block")).to_have_text(["One.", "Two.", "Three, f"])
    gate.set()
    chat.is_done()
    expect(chat.text.locator("> .block")).to_have_text(["One.", "Two.", "Three, four."])
