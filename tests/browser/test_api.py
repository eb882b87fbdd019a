"""The API as people see it: their tokens, its runs on the board, and the examples of docs/api.md in
JavaScript, run as they stand in a page of the site."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, expect

from conversations import tokens
from conversations.models import ChatSession, UsageLog
from providers.models import Configuration
from tests.browser.conftest import PHONE
from tests.servers.app import AppServer
from tests.servers.processes import ROOT
from tests.servers.provider import Provider, hang, head, openai_chunk, send

TEXT = (ROOT / "docs" / "api.md").read_text()
FETCH, EVENT_SOURCE = re.findall(r"^```js\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PATH = "/v1/chat/completions"
CALL = {"model": "double", "stream": True, "messages": [{"role": "user", "content": "hello"}]}


def said(window: BrowserContext, code: str) -> str:
    """What an example writes to the console."""
    page = window.new_page()
    page.goto("/help/")
    with page.expect_console_message() as message:
        page.evaluate(f"async () => {{ {code} }}")
    return message.value.text


def test_a_token_is_made_copied_and_revoked(window: BrowserContext, demo: Configuration):
    window.grant_permissions(["clipboard-read", "clipboard-write"])
    page = window.new_page()
    page.goto("/accounts/tokens/")
    expect(page.get_by_text("You have none yet.")).to_be_visible()
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Name").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("“laptop” was made")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    secret = page.evaluate("() => navigator.clipboard.readText()")
    assert tokens.find(secret) is not None
    page.reload()
    expect(page.get_by_text(secret)).to_have_count(0)
    page.get_by_role("button", name="Revoke").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Programs that use it stop working at once.")
    dialog.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("revoked")
    assert tokens.find(secret) is None


def test_the_tokens_fit_a_phone(
    open_browser: Callable[..., BrowserContext], ada_user: User, demo: Configuration
):
    tokens.make(ada_user, "A name of many words, which is wider than any telephone can show")
    page = open_browser(ada_user, **PHONE).new_page()
    page.goto("/accounts/tokens/")
    expect(page.get_by_text("A name of many words")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.contract("A1")
def test_a_saved_call_is_on_the_board_and_in_the_chat_while_it_streams(
    window: BrowserContext,
    app: AppServer,
    ada_user: User,
    openai: Configuration,
    provider: Provider,
):
    _, secret = tokens.make(ada_user, "laptop")
    provider.reply(head(), send(openai_chunk("written for a program")), hang())
    board = window.new_page()
    board.goto("/monitor/live/")
    headers = {"Authorization": f"Bearer {secret}", "X-LLMChat-Save": "true"}
    with (
        httpx.Client(base_url=app.url, headers=headers, trust_env=False, timeout=20) as program,
        program.stream("POST", PATH, json=CALL) as response,
    ):
        row = board.locator("[data-run]").first
        expect(row).to_contain_text("double")
        expect(row).to_contain_text("Streaming")
        chat = window.new_page()
        chat.goto(response.headers["X-LLMChat-Session"])
        expect(chat.get_by_text("written for a program")).to_be_visible()
        chat.get_by_role("button", name="Stop").click()
        expect(row).to_contain_text("Stopped")
        assert '"finish_reason":"length"' in "".join(response.iter_text())
    assert ChatSession.objects.get().title == "hello"


def test_fetch_reads_a_stream(
    window: BrowserContext, app: AppServer, ada_user: Any, demo: Configuration
):
    _, secret = tokens.make(ada_user, "laptop")
    code = FETCH.replace("http://localhost:8000", app.url)
    code = code.replace("process.env.LLMCHAT_TOKEN", f'"{secret}"')  # a page has no environment
    assert said(window, code) == "Hello there"
    assert UsageLog.objects.get().origin == "api"


def test_an_event_source_of_the_sites_own_page_needs_no_token(
    window: BrowserContext, demo: Configuration
):
    assert said(window, EVENT_SOURCE) == "Hello there"
    assert UsageLog.objects.count() == 1
