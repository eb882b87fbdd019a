"""What may never happen in a page of ours, whatever a test does in it."""

import re
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Error, Page, Request

LOUD = {"error", "warning", "assert"}
LOCAL = {"data", "blob", "about"}


class Watch:
    """Collects, over all windows of a test, what must not happen."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.contexts: list[BrowserContext] = []
        self._allowed: list[str] = []

    def allow(self, pattern: str) -> None:
        """Console messages in which the regular expression `pattern` is found are no problem."""
        self._allowed.append(pattern)

    def over(self, context: BrowserContext, host: str) -> None:
        self.contexts.append(context)

        def note(request: Request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme not in LOCAL and parts.netloc != host:
                self.problems.append(f"asked another host: {request.url}")

        # Not by a route: that would switch the browser's cache off. No other name is resolved.
        context.on("request", note)
        context.on("console", self._console)
        context.on("weberror", lambda event: self.problems.append(f"page error: {event.error}"))
        context.on("dialog", self._dialog)

    @property
    def pages(self) -> list[Page]:
        return [page for context in self.contexts for page in context.pages]

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

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def _let_events_arrive(page: Page) -> Any:
    try:
        return page.evaluate("() => 0")
    except Error:  # it went away
        return None
