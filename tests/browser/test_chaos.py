"""Streams that are cut at random bytes, in Chromium: the page is whole all the same (S10, G1).

A sample of what tests/faults/test_chaos_cuts.py does 500 times with a client of its own.
"""

import re
from collections.abc import Callable
from random import Random
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from conversations.models import Message, Run
from conversations.rendering import render
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.browser.watch import Watch
from tests.servers.app import AppServer
from tests.servers.provider import Provider, Step, head, openai_chunk, send, wait
from tests.servers.proxy import Proxy

STREAMS = 26  # that are cut, unless they end before
CUTS = 20  # of those, at the least
NO_CONNECTION = r"net::ERR_"  # what Chromium writes to the console about a stream that was cut
TABS = 3
DEADLINE = 40_000  # ms: the page waits a second before it returns, after each cut
PROSE = "Zürich, 日本, 🎉 and **bold** words.\n\n"
CODE = "```python\nprint('wörd')  # 🎉\n```\n\n- one\n- two\n\n"


def answer(number: int) -> list[Step]:
    """An answer over some seconds: prose, code, and one that thinks first."""
    text = [PROSE * 16, CODE * 10, PROSE * 8][number]
    chunks = [openai_chunk(text[at : at + 5]) for at in range(0, len(text), 5)]
    if number == 2:
        chunks = [openai_chunk(reasoning=f"thought {index} ") for index in range(60)] + chunks
    paced = [step for chunk in chunks for step in (send(chunk), wait(5 / len(chunks)))]
    return [head(), *paced, *END]


def plain(page: Page, blocks: list[str]) -> list[str]:
    """HTML as this browser writes it."""
    return page.evaluate(
        """blocks => blocks.map((block) => {
            const element = document.createElement("div");
            element.innerHTML = block;
            return element.innerHTML;
        })""",
        blocks,
    )


@pytest.mark.contract("S10")
@pytest.mark.contract("F9")
@pytest.mark.timeout(120)
def test_three_answers_whose_streams_are_cut_twenty_times_are_whole_in_the_page(
    app: AppServer,
    open_browser: Callable[..., BrowserContext],
    ada_user: User,
    openai: Configuration,
    provider: Provider,
    watch: Watch,
):
    watch.allow(NO_CONNECTION)
    chance = Random(9)
    port = urlsplit(app.url).port
    assert port
    with Proxy(port) as proxy:
        proxy.cut_after = lambda number: chance.randint(200, 3_000) if number < STREAMS else None
        window = open_browser(ada_user, base_url=proxy.url)
        chats = [Chat(window.new_page()) for _ in range(TABS)]
        for number, chat in enumerate(chats):
            provider.reply(*answer(number))
            chat.open("/").open_monitor()
            if number:
                chat.page.get_by_role("button", name="New chat").first.click()
                chat.ready()
            chat.ask(f"question {number}")
            provider.wait_for_request(number + 1)
        for chat in chats:
            expect(chat.answer).to_have_attribute("data-status", "done", timeout=DEADLINE)
            expect(chat.console).to_contain_text(re.compile("Text complete: .*, checked"))
            assert chat.console.get_by_text("Stream started").count() == 1
            assert chat.console.get_by_text("Completed").count() == 1
            stored = Message.objects.get(role="assistant", session=UUID(chat.id)).content
            shown = chat.blocks()
            assert shown == plain(chat.page, render(stored))
            chat.reload()
            assert chat.blocks() == shown
            assert chat.answers.count() == 1
        assert len(proxy.affected) - TABS >= CUTS  # each cut made one more
    assert len(provider.requests) == TABS
    assert not Run.objects.exclude(status="done").exists()
    assert not Run.objects.exclude(mismatches=0).exists()
