"""The chat page in one tab, in the words of who uses it."""

import re
from typing import Self

from playwright.sync_api import Locator, Page, expect

from tests.servers.provider import OPENAI_DONE, openai_chunk, openai_usage, send

# What ends an answer of the provider double that was sent piece by piece.
END = [send(openai_chunk(finish="stop")), send(openai_usage()), send(OPENAI_DONE)]


class Chat:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.get_by_role("textbox", name="Message", exact=True)
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.stop_button = page.get_by_role("button", name="Stop", exact=True)
        self.questions = page.locator("[data-transcript] [data-entry=user]")
        self.answers = page.locator("[data-transcript] chat-answer")
        self.answer = self.answers.last
        self.text = self.answer.locator("[data-blocks]")
        self.waiting = self.answer.locator("[data-waiting-text]")
        self.facts = self.answer.locator(".facts-text")
        self.failure = self.answer.get_by_role("group", name="Error")
        self.notice = page.locator("[data-alert]")
        self.chats = page.get_by_role("navigation", name="Your chats")
        self.console = page.locator("[data-console]")
        self.inspector = page.locator("[data-inspector]")

    def open(self, path: str) -> Self:
        self.page.goto(path)
        return self.ready()

    def reload(self) -> Self:
        self.page.reload()
        return self.ready()

    def ready(self) -> Self:
        """The modules have run: answers come last, and define their element."""
        expect(self.page.locator("chat-composer:defined")).to_have_count(1)
        return self

    @property
    def id(self) -> str:
        return self.page.locator("[data-chat].app").get_attribute("data-chat") or ""

    def ask(self, text: str) -> Self:
        self.box.fill(text)
        self.box.press("Enter")
        return self

    def is_done(self, status: str = "done") -> Self:
        expect(self.answer).to_have_attribute("data-status", status)
        return self

    def block(self, index: int) -> Locator:
        """A block of the last answer, such as a paragraph or a list."""
        return self.text.locator("> .block").nth(index)

    def blocks(self) -> list[str]:
        """The HTML of all blocks of all answers, as the browser has it."""
        return self.answers.locator("[data-blocks] > .block").evaluate_all(
            "blocks => blocks.map((block) => block.innerHTML)"
        )

    def open_monitor(self) -> Self:
        toggle = self.page.get_by_role("button", name="Monitor", exact=True)
        if toggle.get_attribute("aria-expanded") != "true":
            toggle.click()
        return self

    def open_parameters(self) -> Self:
        self.page.get_by_role("button", name=re.compile("^Parameters")).click()
        return self

    def parameter(self, label: str) -> Locator:
        return self.page.get_by_role("textbox", name=re.compile(f"^{label}"))

    def clipboard(self) -> str:
        return self.page.evaluate("() => navigator.clipboard.readText()")
