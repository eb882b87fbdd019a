"""The JavaScript of docs/api.md, run as it stands in a page of the site."""

import re
from typing import Any

from playwright.sync_api import BrowserContext

from conversations import tokens
from conversations.models import UsageLog
from providers.models import Configuration
from tests.servers.app import AppServer
from tests.servers.processes import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text()
FETCH, EVENT_SOURCE = re.findall(r"^```js\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def said(window: BrowserContext, code: str) -> str:
    """What an example writes to the console."""
    page = window.new_page()
    page.goto("/help/")
    with page.expect_console_message() as message:
        page.evaluate(f"async () => {{ {code} }}")
    return message.value.text


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
