"""The message box says what is left of a budget, and what becomes of a message that is too much."""

import threading
from collections.abc import Callable
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from conversations.models import Budget, Message
from providers.models import Configuration
from tests.browser.chat import Chat
from tests.browser.conftest import PHONE
from tests.browser.watch import Watch
from tests.servers.provider import Provider, head, openai_answer, openai_chunk, send, until


def test_what_is_left_is_shown_and_a_message_that_is_too_much_stays_in_the_box(
    page: Page, ada_user: User, openai: Configuration, provider: Provider, watch: Watch
):
    Budget.objects.create(user=ada_user, limit_tokens=1_150)
    chat = Chat(page).open("/")
    budget = page.locator("[data-budget]")
    expect(budget).to_contain_text("1,150 of 1,150 tokens left in your monthly budget")
    expect(budget).to_contain_text("Next message: up to ≈1,028 tokens")
    chat.box.fill("x" * 40)
    expect(budget).to_contain_text("≈1,038 tokens")  # what is typed counts
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk("begun")), until(gate), *openai_answer("", "!")[1:])
    chat.box.press("Enter")
    expect(chat.text).to_have_text("begun")
    gate.set()
    chat.is_done()
    expect(budget).to_contain_text("1,132 of 1,150 tokens left")  # 11 and 7 of them are used
    chat.box.fill("y" * 400)
    expect(budget).to_contain_text("No room for the next message")
    expect(budget).to_have_class("budget is-over")
    watch.allow("429")
    chat.box.press("Enter")
    expect(chat.notice).to_contain_text("1,132 of 1,150 tokens are left in your monthly budget")
    expect(chat.notice).to_contain_text("It resets on")
    expect(chat.box).to_have_value("y" * 400)
    expect(budget).to_contain_text("No room for the next message")
    expect(chat.questions).to_have_count(1)
    assert Message.objects.count() == 2
    # With fewer tokens asked for, the same message goes through.
    chat.open_parameters()
    chat.parameter("Max tokens").fill("50")
    expect(budget).to_contain_text("Next message: up to")
    provider.reply(*openai_answer("short"))
    chat.box.press("Enter")
    expect(chat.questions).to_have_count(2)
    chat.is_done()
    expect(chat.notice).to_be_hidden()


@pytest.mark.contract("C12")
def test_on_a_phone_the_budget_fits_the_screen(
    open_browser: Callable[..., BrowserContext], ada_user: User, openai: Configuration
):
    Budget.objects.create(user=ada_user, limit_usd=Decimal(5), period="day")
    page = open_browser(ada_user, color_scheme="dark", **PHONE).new_page()
    Chat(page).open("/")
    budget = page.locator("[data-budget]")
    expect(budget).to_contain_text("$5.00 of $5.00 left in your daily budget")
    expect(budget).to_contain_text("Next message")
    box = budget.bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 375
    assert budget.evaluate("element => element.scrollWidth <= element.clientWidth")
