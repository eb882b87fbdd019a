"""The live board in a browser: rows come, change and go without a reload (M4)."""

import re
import threading
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from conversations.models import Run
from providers.models import Configuration
from tests.browser.chat import Chat
from tests.browser.conftest import PHONE
from tests.browser.watch import Watch
from tests.people import Person
from tests.servers.app import AppServer
from tests.servers.nginx import HOLDING, Nginx, NoNginx
from tests.servers.provider import Provider, hang, head, openai_chunk, send, until


@pytest.mark.contract("M4")
def test_staff_watch_a_run_from_its_start_and_stop_it(
    chat: Chat,
    provider: Provider,
    open_browser: Callable[..., BrowserContext],
    make_user: Callable[..., User],
):
    gate = threading.Event()
    provider.reply(head(), until(gate), send(openai_chunk("twelve words")), hang())
    page = open_browser(make_user("chief", is_staff=True)).new_page()
    page.goto("/monitor/live/")
    expect(page.get_by_text("No answer is being written.")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Live")
    chat.ask("hello")
    row = page.get_by_role("row").nth(1)
    expect(row).to_contain_text("Waiting")
    expect(row).to_contain_text("ada")
    expect(row).to_contain_text("double")
    expect(row.locator('[data-cell="characters"]')).to_have_text("0")
    gate.set()
    expect(row).to_contain_text("Streaming")
    expect(row.locator('[data-cell="characters"]')).to_have_text("12")
    expect(row.locator('[data-cell="first"]')).to_have_text(re.compile(r"^\d+\.\d\d s$"))
    expect(page.locator('[data-total="streaming"]')).to_have_text("1")
    row.get_by_role("button", name="Stop double of ada").click()
    expect(row).to_contain_text("Stopped")
    chat.is_done("stopped")
    expect(chat.answer).to_contain_text("chief")
    # It goes after a moment, and the page says again that there is nothing.
    expect(page.get_by_role("row")).to_have_count(0)
    expect(page.get_by_text("No answer is being written.")).to_be_visible()
    lines = page.locator("[data-console] .console-text")
    expect(lines).to_have_text(
        [
            "Connected",
            re.compile("^Started · ada, double, run [0-9a-f]{8}$"),
            re.compile("^First chunk after .* · ada, double"),
            *([re.compile("^Is being stopped")] if lines.count() == 5 else []),
            re.compile("^Stopped after .*, ≈3 tokens so far · ada, double"),
        ]
    )


@pytest.mark.contract("M4")
def test_a_person_sees_their_own_runs_on_a_phone(
    open_browser: Callable[..., BrowserContext],
    ada: Person,
    openai: Configuration,
    provider: Provider,
):
    provider.reply(head(), send(openai_chunk("some text")), hang())
    ada.ask(ada.new_chat(), "hello")
    page = open_browser(User.objects.get(), **PHONE).new_page()
    page.goto("/monitor/live/")
    row = page.locator("[data-run]").first
    expect(row).to_contain_text("Streaming")
    expect(row.get_by_role("button", name=re.compile("Stop"))).to_be_in_viewport()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    with page.expect_navigation():
        row.get_by_role("link", name="double", exact=True).click()
    expect(page).to_have_url(re.compile(f"/monitor/runs/{Run.objects.get().pk}/$"))


def test_the_board_says_when_its_stream_is_held_back(
    app: AppServer, open_browser: Callable[..., BrowserContext], ada: Person
):
    try:
        proxy = Nginx(app.url, *HOLDING)
    except NoNginx as reason:
        pytest.skip(str(reason))
    with proxy:
        page = open_browser(User.objects.get(), base_url=proxy.url).new_page()
        page.goto("/monitor/live/")
        expect(page.get_by_text("Nothing arrives")).to_be_visible()
        link = page.get_by_role("link", name="test the delivery")
        expect(link).to_have_attribute("href", "/monitor/test/")
        page.close()


def test_the_board_says_when_its_reader_is_signed_out(page: Page, watch: Watch):
    watch.allow("401")
    page.goto("/monitor/live/")
    expect(page.get_by_role("status")).to_have_text("Live")
    page.context.clear_cookies()
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    expect(page.get_by_role("status")).to_have_text("Signed out")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    assert not Run.objects.exists()
