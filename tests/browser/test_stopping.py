"""Stop gives the question back or keeps what there is, and ends the work at the provider (C5)."""

import re

import pytest
from playwright.sync_api import Route, expect

from conversations.models import Message
from providers.models import Configuration
from tests.browser.chat import Chat
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send


def stop(chat: Chat, how: str) -> None:
    if how == "Escape":
        chat.page.keyboard.press("Escape")
    else:
        chat.stop_button.click()


@pytest.mark.contract("C5")
@pytest.mark.contract("H8")
@pytest.mark.parametrize("how", ["button", "Escape"])
def test_a_stop_before_the_first_chunk_puts_the_question_back_into_the_box(
    chat: Chat, openai: Configuration, provider: Provider, how: str
):
    provider.reply(head(), hang())
    chat.ask("Take\nthis *back*")
    request = provider.wait_for_request()
    expect(chat.waiting).to_contain_text("tokens in")
    stop(chat, how)
    expect(chat.box).to_have_value("Take\nthis *back*")
    expect(chat.box).to_be_focused()
    expect(chat.questions).to_have_count(0)
    expect(chat.answers).to_have_count(0)
    expect(chat.send_button).to_be_enabled()
    request.wait_for_close()
    assert not Message.objects.exists()
    chat.reload()
    expect(chat.box).to_have_value("Take\nthis *back*")
    expect(chat.questions).to_have_count(0)


@pytest.mark.contract("H8")
def test_a_chat_whose_only_question_was_taken_back_is_no_blank_page(
    chat: Chat, openai: Configuration, provider: Provider
):
    welcome = chat.page.locator("[data-welcome]")
    expect(welcome).to_be_visible()
    provider.reply(head(), hang())
    chat.ask("never mind")
    expect(welcome).to_be_hidden()
    expect(chat.chats.get_by_role("link")).to_contain_text("never mind, writing an answer")
    expect(chat.page).to_have_title("never mind · llmchat")
    chat.stop_button.click()
    expect(chat.box).to_have_value("never mind")
    expect(welcome).to_be_visible()
    # The title was made from the question, and goes with it.
    expect(chat.chats.get_by_role("link")).to_have_text("New chat")
    expect(chat.page).to_have_title("New chat · llmchat")


@pytest.mark.contract("C5")
def test_reasoning_alone_is_no_answer_that_a_stop_keeps(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk(reasoning="Let me see")), hang())
    chat.ask("think")
    expect(chat.waiting).to_contain_text("is thinking")
    chat.stop_button.click()
    expect(chat.box).to_have_value("think")
    expect(chat.answers).to_have_count(0)


@pytest.mark.contract("C5")
@pytest.mark.contract("H7")
@pytest.mark.parametrize("how", ["button", "Escape"])
def test_a_stop_after_the_first_chunk_keeps_the_text_and_says_stopped(
    chat: Chat, openai: Configuration, provider: Provider, how: str
):
    provider.reply(head(), send(openai_chunk("Half of ")), send(openai_chunk("it")), hang())
    chat.ask("tell me")
    expect(chat.text).to_have_text("Half of it")
    stop(chat, how)
    chat.is_done("stopped")
    provider.wait_for_close()
    for _ in range(2):
        expect(chat.text).to_have_text("Half of it")
        expect(chat.answer).to_contain_text(re.compile(r"Stopped by you at \d\d:\d\d"))
        expect(chat.facts).to_contain_text("≈")
        expect(chat.questions).to_have_count(1)
        chat.reload()
    expect(chat.box).to_have_value("")


@pytest.mark.contract("C5")
def test_a_stop_while_the_send_is_still_under_way_is_not_lost(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("earlier"))
    chat.ask("earlier question")
    chat.is_done()
    provider.reply(head(), hang())
    held: list[Route] = []
    chat.page.route("**/messages/", lambda route: held.append(route))
    chat.ask("too quick")
    expect(chat.questions).to_have_count(2)
    chat.stop_button.click()
    expect(chat.page.get_by_role("button", name="Stopping")).to_be_disabled()
    held[0].continue_()
    expect(chat.box).to_have_value("too quick")
    expect(chat.questions).to_have_count(1)
    expect(chat.answers).to_have_count(1)
    provider.wait_for_request(2).wait_for_close()


@pytest.mark.contract("C5")
def test_a_stop_right_after_the_request_leaves_nothing_behind(
    chat: Chat, openai: Configuration, provider: Provider
):
    chat.open_monitor()
    for _ in range(3):
        provider.reply(head(), hang())
        chat.ask("never mind")
        chat.stop_button.click()
        expect(chat.box).to_have_value("never mind")
        expect(chat.questions).to_have_count(0)
        expect(chat.chats.get_by_role("link")).to_have_text("New chat")
        expect(chat.chats.locator("[data-running]")).to_have_count(0)


@pytest.mark.contract("H10")
def test_the_list_of_chats_is_fresh_however_slow_the_inspector_is(
    chat: Chat, openai: Configuration, provider: Provider
):
    held: list[Route] = []
    chat.page.route("**/monitor/runs/**", lambda route: held.append(route))
    provider.reply(head(), send(openai_chunk("Some text")), hang())
    chat.ask("hello")
    expect(chat.text).to_have_text("Some text")
    expect(chat.chats.locator("[data-running]")).to_have_count(1)
    chat.stop_button.click()
    chat.is_done("stopped")
    expect(chat.chats.locator("[data-running]")).to_have_count(0)
    assert held
    for route in held:
        route.continue_()


@pytest.mark.contract("H4")
def test_a_double_click_on_stop_does_not_send_again(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(head(), hang())
    chat.ask("hello")
    provider.wait_for_request()
    place = chat.stop_button.bounding_box()
    assert place
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    chat.page.mouse.click(x, y)
    expect(chat.send_button).to_be_enabled()
    chat.page.mouse.down(click_count=2)
    chat.page.mouse.up(click_count=2)
    expect(chat.box).to_have_value("hello")
    expect(chat.questions).to_have_count(0)


@pytest.mark.contract("H7")
def test_escape_closes_what_is_open_before_it_stops_an_answer(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("Some text")), hang())
    chat.ask("hello")
    expect(chat.text).to_have_text("Some text")
    chat.page.keyboard.press("Control+/")
    expect(chat.page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_hidden()
    expect(chat.answer).to_have_attribute("data-status", "running")
    chat.page.keyboard.press("Escape")
    chat.is_done("stopped")
