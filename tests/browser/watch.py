"""What may never happen in a page of ours, whatever a test does in it."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Request,
    WebError,
)

LOUD = {"error", "warning", "assert"}
LOCAL = {"data", "blob", "about"}


class Watch:
    """Collects, over all windows of a test, what must not happen."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.mismatches = 0  # that the server has to have counted by the end of the test
        self._contexts: list[BrowserContext] = []
        self._hosts: set[str] = set()
        self._allowed: list[str] = []

    def allow(self, pattern: str) -> None:
        """Console messages in which the regular expression `pattern` is found are no problem."""
        self._allowed.append(pattern)

    def over(self, context: BrowserContext, url: str) -> None:
        """Looks at all that happens in `context` from now on; the app is at `url`."""
        self._contexts.append(context)
        self._hosts.add(urlsplit(url).netloc)
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("dialog", self._dialog)
        context.on("request", self._request)

    def leave(self, context: BrowserContext) -> None:
        context.remove_listener("console", self._console)
        context.remove_listener("weberror", self._error)
        context.remove_listener("dialog", self._dialog)
        context.remove_listener("request", self._request)

    @property
    def pages(self) -> list[Page]:
        return [page for context in self._contexts for page in context.pages]

    def check(self) -> None:
        """Fails if anything happened up to now."""
        for page in self.pages:
            _let_events_arrive(page)
        assert not self.problems, "\n".join(self.problems)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type not in LOUD:
            return
        text = f"{message.text} ({message.location['url']})"
        if not any(re.search(pattern, text) for pattern in self._allowed):
            self.problems.append(f"console {message.type}: {text}")

    def _error(self, error: WebError) -> None:
        self.problems.append(f"page error: {error.error}")

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    # Not by a route, which would switch the browser's cache off.
    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in LOCAL and parts.netloc not in self._hosts:
            self.problems.append(f"asked another host: {request.url}")


def _let_events_arrive(page: Page) -> None:
    try:
        page.evaluate("() => 0")
    except Error:
        return  # it went away meanwhile
