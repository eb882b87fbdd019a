"""Typing, sending, and what a message takes along (H1 to H5, H26, H27, H37, H42)."""

import re
import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, Request, Route, expect

from conversations.models import Message
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.browser.watch import Watch
from tests.conftest import PASSWORD
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send, until


@pytest.mark.contract("H1")
@pytest.mark.contract("H2")
@pytest.mark.contract("H5")
def test_after_login_the_cursor_is_in_the_box_and_enter_sends(
    open_browser: Callable[..., BrowserContext],
    ada_user: object,
    openai: Configuration,
    provider: Provider,
):
    page = open_browser().new_page()
    page.goto("/")
    expect(page).to_have_url(re.compile(r"/accounts/login/\?next=/$"))
    page.keyboard.type("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    chat = Chat(page).ready()
    expect(chat.box).to_be_focused()
    provider.reply(*openai_answer("Good day."))
    page.keyboard.type("Good day")
    page.keyboard.press("Enter")
    expect(chat.box).to_have_value("")
    expect(chat.questions).to_have_text(re.compile("Good day"))
    chat.is_done()
    expect(chat.text).to_have_text("Good day.")
    expect(chat.box).to_be_focused()


@pytest.mark.contract("H5")
def test_the_question_shows_before_the_server_has_answered(
    chat: Chat, openai: Configuration, provider: Provider
):
    held: list[Route] = []
    chat.page.route("**/messages/", lambda route: held.append(route))
    provider.reply(*openai_answer("fine"))
    chat.ask("Is this *here* at once?")
    expect(chat.questions).to_contain_text("Is this *here* at once?")
    expect(chat.waiting).to_contain_text("Waiting for double-1")
    expect(chat.stop_button).to_be_visible()
    expect(chat.box).to_have_value("")
    held[0].continue_()
    chat.is_done()
    expect(chat.questions).to_have_count(1)
    expect(chat.answers).to_have_count(1)
    expect(chat.questions.locator("em")).to_have_text("here")


@pytest.mark.contract("H2")
@pytest.mark.contract("C12")
def test_shift_enter_breaks_the_line(chat: Chat, openai: Configuration, provider: Provider):
    provider.reply(*openai_answer("ok"))
    chat.box.press_sequentially("one")
    chat.box.press("Shift+Enter")
    chat.box.press_sequentially("two")
    expect(chat.box).to_have_value("one\ntwo")
    expect(chat.questions).to_have_count(0)
    chat.box.press("Enter")
    chat.is_done()
    assert provider.requests[0].json["messages"][-1]["content"] == "one\ntwo"


@pytest.mark.contract("H2")
def test_enter_that_ends_an_input_method_does_not_send(
    chat: Chat, openai: Configuration, provider: Provider
):
    expect(chat.box).to_be_focused()
    devtools = chat.page.context.new_cdp_session(chat.page)
    devtools.send(
        "Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3}
    )
    expect(chat.box).to_have_value("にほん")
    chat.page.keyboard.press("Enter")
    devtools.send("Input.insertText", {"text": "日本"})
    # Safari says that it composes no more, and has only the old code left.
    chat.box.dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    chat.box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    expect(chat.box).to_have_value(re.compile("日本"))
    expect(chat.questions).to_have_count(0)
    assert not provider.requests


@pytest.mark.contract("H4")
def test_a_blank_message_does_nothing(chat: Chat, openai: Configuration, provider: Provider):
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.method))
    expect(chat.send_button).to_be_disabled()
    for text in ("", "   ", "\n\n \t"):
        chat.box.fill(text)
        chat.box.press("Enter")
        expect(chat.send_button).to_be_disabled()
    chat.box.fill("x")
    expect(chat.send_button).to_be_enabled()
    expect(chat.questions).to_have_count(0)
    assert "POST" not in asked
    assert not Message.objects.exists()


@pytest.mark.contract("H4")
@pytest.mark.parametrize("how", ["two Enters", "a double click"])
def test_sending_twice_at_once_makes_one_message(
    chat: Chat, openai: Configuration, provider: Provider, how: str
):
    posted: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            posted.append(request.url)

    chat.page.on("request", note)
    gate = threading.Event()
    provider.reply(head(), until(gate), send(openai_chunk("once")), *END)
    chat.box.fill("hello")
    if how == "two Enters":
        chat.box.press("Enter")
        chat.page.keyboard.press("Enter")
    else:
        place = chat.send_button.bounding_box()
        assert place
        chat.page.mouse.dblclick(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    provider.wait_for_request()
    gate.set()
    chat.is_done()
    expect(chat.text).to_have_text("once")
    expect(chat.questions).to_have_count(1)
    assert [url.rsplit("/", 2)[1] for url in posted] == ["messages"]  # and no stop
    assert Message.objects.filter(role="user").count() == 1
    assert len(provider.requests) == 1


@pytest.mark.contract("H3")
def test_the_box_grows_with_the_text_and_then_scrolls(chat: Chat):
    def height() -> float:
        box = chat.box.bounding_box()
        assert box
        return box["height"]

    empty = height()
    chat.box.fill("\n".join("12345"))
    some = height()
    assert some > empty * 2
    chat.box.fill("\n".join(["line"] * 200))
    many = height()
    assert some < many < 450
    assert chat.box.evaluate("box => box.scrollHeight > box.clientHeight + 1000")
    expect(chat.send_button).to_be_in_viewport()
    chat.box.fill("")
    assert height() == empty


@pytest.mark.contract("H3")
def test_a_huge_paste_neither_freezes_the_box_nor_is_lost(chat: Chat):
    expect(chat.box).to_be_focused()
    started = chat.page.evaluate("() => performance.now()")
    chat.page.keyboard.insert_text("0123456789 " * 10_000)
    expect(chat.page.locator("[data-count]")).to_have_text("110,000 of 5,000")
    assert chat.page.evaluate("() => performance.now()") - started < 3_000
    chat.box.press("Enter")
    expect(chat.page.locator("[data-prompt-errors]")).to_contain_text("105,000 characters too long")
    expect(chat.box).to_have_attribute("aria-invalid", "true")
    assert len(chat.box.input_value()) == 110_000
    expect(chat.questions).to_have_count(0)
    assert not Message.objects.exists()


@pytest.mark.contract("H37")
def test_a_draft_survives_reloads_other_chats_and_answers(
    chat: Chat, openai: Configuration, provider: Provider
):
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk("One ")), until(gate), send(openai_chunk("two")), *END)
    chat.ask("first question")
    expect(chat.text).to_have_text("One")
    chat.box.fill("while it\nstreams")
    chat.reload()
    expect(chat.box).to_have_value("while it\nstreams")
    gate.set()
    chat.is_done()
    expect(chat.box).to_have_value("while it\nstreams")

    chat.page.get_by_role("button", name="New chat", exact=True).click()
    expect(chat.questions).to_have_count(0)
    expect(chat.ready().box).to_have_value("")
    chat.box.fill("another draft")
    chat.chats.get_by_role("link", name="first question").click()
    expect(chat.questions).to_have_count(1)
    expect(chat.ready().box).to_have_value("while it\nstreams")

    provider.reply(*openai_answer("ok"))
    chat.box.press("Enter")
    expect(chat.answers).to_have_count(2)
    chat.is_done()
    chat.reload()
    expect(chat.box).to_have_value("")


@pytest.mark.contract("S11")
def test_a_send_whose_answer_got_lost_is_sent_again_without_doubling(
    chat: Chat, openai: Configuration, provider: Provider, watch: Watch
):
    def lose(route: Route) -> None:
        route.fetch()  # it arrived, and only its answer did not
        route.abort()

    watch.allow("net::ERR_FAILED|htmx:(afterRequest|sendError)")
    provider.reply(*openai_answer("only once"))
    chat.page.route("**/messages/", lose, times=1)
    chat.ask("hello")
    expect(chat.notice).to_contain_text("The server cannot be reached. Your text is kept")
    expect(chat.box).to_have_value("hello")
    chat.box.press("Enter")
    chat.is_done()
    expect(chat.text).to_have_text("only once")
    expect(chat.questions).to_have_count(1)
    assert Message.objects.filter(role="user").count() == 1
    assert len(provider.requests) == 1


@pytest.mark.contract("H42")
def test_a_session_that_ended_while_typing_loses_no_text(
    chat: Chat, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("status of 401|Status Error Code 401")
    page = chat.page
    url = page.url
    chat.box.fill("a long thought")
    page.context.clear_cookies(name="sessionid")
    chat.box.press("Enter")
    expect(chat.notice).to_contain_text("You are signed out. Your text is kept here")
    expect(chat.box).to_have_value("a long thought")
    chat.notice.get_by_role("link", name="Sign in").click()
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(url)
    expect(chat.ready().box).to_have_value("a long thought")
    provider.reply(*openai_answer("kept"))
    chat.box.press("Enter")
    chat.is_done()
    expect(chat.text).to_have_text("kept")


@pytest.mark.contract("H27")
@pytest.mark.contract("C1")
def test_parameters_are_sent_and_are_still_set_after_a_reload(
    chat: Chat, openai: Configuration, provider: Provider
):
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk("o")), until(gate), send(openai_chunk("k")), *END)
    chat.open_parameters()
    wanted = {"Temperature": "0.3", "Top p": "0.9", "Max tokens": "77", "Earlier messages": "4"}
    for label, value in wanted.items():
        chat.parameter(label).fill(value)
    expect(chat.page.locator("[data-parameters-set]")).to_have_text("4")
    chat.ask("hello")
    expect(chat.text).to_have_text("o")
    body = provider.wait_for_request().json
    assert (body["temperature"], body["top_p"]) == (0.3, 0.9)
    assert 77 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    for is_running in (True, False):
        chat.reload().open_parameters()
        for label, value in wanted.items():
            expect(chat.parameter(label)).to_have_value(value)
        if is_running:
            gate.set()
            chat.is_done()


@pytest.mark.contract("C1")
@pytest.mark.contract("S12")
def test_a_bad_parameter_is_said_in_its_place_and_the_text_stays(
    chat: Chat, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("status of 422")
    chat.open_parameters()
    chat.parameter("Temperature").fill("9")
    chat.ask("my question")
    error = chat.page.locator("#errors-temperature")
    expect(error).to_contain_text("from 0 to 2")
    expect(chat.parameter("Temperature")).to_have_value("9")
    expect(chat.box).to_have_value("my question")
    expect(chat.questions).to_have_count(0)
    expect(chat.answers).to_have_count(0)
    provider.reply(*openai_answer("ok"))
    chat.parameter("Temperature").fill("1")
    expect(error).to_be_empty()
    chat.box.press("Enter")
    chat.is_done()
    assert provider.requests[0].json["temperature"] == 1


@pytest.mark.contract("H26")
def test_a_model_is_chosen_by_a_part_of_its_name_and_remembered(
    chat: Chat, openai: Configuration, provider: Provider
):
    Configuration.objects.create(
        name="Zwölfte Stimme",
        slug="second",
        kind="openai",
        model="zweit-7b",
        base_url=provider.url,
        context_window=4096,
    )
    chat.reload()
    button = chat.page.get_by_role("button", name=re.compile("^Model:"))
    expect(button).to_contain_text("Double")
    button.click()
    find = chat.page.get_by_role("combobox", name="Find a model")
    expect(find).to_be_focused()
    find.fill("nothing like it")
    expect(chat.page.get_by_text("No model has this in its name.")).to_be_visible()
    find.fill("weit-7")
    expect(chat.page.get_by_role("option")).to_have_count(1)
    find.press("Enter")
    expect(button).to_contain_text("Zwölfte Stimme")
    expect(button).to_contain_text("4k")
    expect(chat.box).to_be_focused()
    provider.reply(*openai_answer("ich"))
    chat.ask("wer?")
    chat.is_done()
    expect(chat.facts).to_contain_text("zweit-7b")
    assert provider.requests[0].json["model"] == "zweit-7b"
    chat.reload()
    expect(button).to_contain_text("Zwölfte Stimme")


@pytest.mark.contract("H26")
def test_without_any_model_the_page_says_so(page: Page, ada_user: object):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    chat = Chat(page).open("/")
    expect(chat.box).to_be_disabled()
    expect(page.get_by_text("No model is ready to answer")).to_be_visible()
    expect(page.get_by_text("Ask your administrator")).to_be_visible()
    page.clock.run_for(5_000)
    page.evaluate("fetch('/healthz')")
    assert not [url for url in asked if "/context/" in url], "there is nothing to send it to"


@pytest.mark.contract("C2")
def test_the_page_shows_what_the_next_request_takes_along(
    chat: Chat, openai: Configuration, provider: Provider
):
    for answer in ("one", "two"):
        provider.reply(*openai_answer(answer))
        chat.ask(f"say {answer}")
        expect(chat.text).to_have_text(answer)
        chat.is_done()
    line = chat.page.locator("[data-context-line]")
    expect(line).to_contain_text("Sends 4 earlier messages")
    marked = chat.page.locator("[data-entry].in-context")
    expect(marked).to_have_count(4)
    chat.open_parameters()
    chat.parameter("Earlier messages").fill("1")
    expect(line).to_contain_text("Sends 1 earlier message ·")
    expect(marked).to_have_count(1)
    expect(chat.questions.first).to_have_attribute(
        "title", re.compile("beyond the limit of earlier messages")
    )


@pytest.mark.contract("C9")
def test_a_second_send_while_an_answer_is_written_says_why_not(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("Some text")), hang())
    chat.ask("first")
    expect(chat.text).to_have_text("Some text")
    chat.ask("second")
    expect(chat.notice).to_contain_text("An answer is being written in this chat")
    expect(chat.box).to_have_value("second")
    expect(chat.questions).to_have_count(1)
    chat.stop_button.click()
    chat.is_done("stopped")
    expect(chat.box).to_have_value("second")


def test_a_suggestion_is_put_into_the_box_of_an_empty_chat(chat: Chat):
    suggestion = chat.page.locator("[data-suggestion]").first
    words = suggestion.inner_text()
    suggestion.click()
    expect(chat.box).to_have_value(words)
    expect(chat.box).to_be_focused()
