"""What goes wrong is said in the chat, keeps what is there, and can be tried again (C7, H12)."""

import json
import re
import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, expect

from conversations.models import Run
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.browser.watch import Watch
from tests.servers.app import AppServer
from tests.servers.provider import (
    Provider,
    Step,
    head,
    openai_answer,
    openai_chunk,
    reset,
    send,
    until,
    wait,
)

# What Chromium and htmx write to the console about requests that do not get through.
NO_CONNECTION = r"net::ERR_|htmx:(afterRequest|sendError)"


def refusal(status: int, message: str, **headers: str) -> list[Step]:
    """The provider's own error, before any text."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps({"error": {"message": message}})
    return [head(status, "application/json", names), send(body)]


@pytest.mark.contract("C7")
@pytest.mark.contract("H28")
def test_a_refused_key_is_said_in_the_chat_and_still_there_after_a_reload(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(*refusal(401, "Incorrect API key provided: sk-marked-key-0123456789"))
    chat.ask("hello")
    chat.is_done("error")
    for _ in range(2):
        expect(chat.failure).to_contain_text("API_KEY_INVALID")
        expect(chat.failure).to_contain_text("Double")
        expect(chat.questions).to_contain_text("hello")
        expect(chat.answers).to_have_count(1)
        assert "marked-key" not in chat.page.content()
        chat.reload()
    provider.reply(*openai_answer("works again"))
    chat.ask("and now?")
    chat.is_done()
    expect(chat.text).to_have_text("works again")


@pytest.mark.contract("C7")
@pytest.mark.contract("F2")
def test_a_partial_answer_is_kept_and_retry_asks_again(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("Half an answer")), wait(0.05), reset())
    chat.ask("tell me")
    chat.is_done("error")
    for _ in range(2):
        expect(chat.text).to_have_text("Half an answer")
        expect(chat.failure).to_contain_text("STREAM_INTERRUPTED")
        chat.reload()
    gate = threading.Event()
    provider.reply(head(), until(gate), send(openai_chunk("A whole answer")), *END)
    chat.failure.get_by_role("button", name="Retry").click()
    expect(chat.waiting).to_contain_text("Waiting for double-1")
    expect(chat.stop_button).to_be_visible()
    expect(chat.failure).to_have_count(0)
    gate.set()
    chat.is_done()
    for _ in range(2):
        expect(chat.text).to_have_text("A whole answer")
        expect(chat.questions).to_have_count(1)
        expect(chat.answers).to_have_count(1)
        expect(chat.failure).to_have_count(0)
        chat.reload()
    sent = provider.wait_for_request(2).json["messages"]
    assert [message["content"] for message in sent] == ["tell me"]


@pytest.mark.contract("C5")
def test_a_retry_that_is_stopped_before_its_first_chunk_loses_no_question(
    chat: Chat, openai: Configuration, provider: Provider
):
    for _ in range(3):
        provider.reply(*refusal(500, "broken"))
    chat.ask("precious words")
    chat.is_done("error")
    gate = threading.Event()
    provider.reply(head(), until(gate), *END)
    chat.failure.get_by_role("button", name="Retry").click()
    expect(chat.waiting).to_contain_text("tokens in")
    chat.stop_button.click()
    expect(chat.stop_button).to_be_hidden()
    expect(chat.box).to_have_value("precious words")
    chat.reload()
    expect(chat.box).to_have_value("precious words")


@pytest.mark.contract("C7")
@pytest.mark.contract("P3")
def test_retry_waits_as_long_as_the_provider_asked_for(
    chat: Chat, openai: Configuration, provider: Provider, settings
):
    settings.RETRY_MAX_DELAY = 1
    provider.reply(*refusal(429, "slow down", Retry_After="9"))
    chat.ask("hello")
    chat.is_done("error")
    expect(chat.failure).to_contain_text("RATE_LIMIT_EXCEEDED")
    retry = chat.failure.get_by_role("button")
    expect(retry).to_have_text(re.compile(r"^\s*Retry in [1-9] s$"))
    expect(retry).to_be_disabled()
    chat.reload()
    expect(retry).to_have_text(re.compile(r"^\s*Retry in [1-9] s$"))
    expect(retry).to_be_disabled()
    expect(retry).to_have_text("Retry")
    provider.reply(*openai_answer("ok"))
    retry.click()
    chat.is_done()
    expect(chat.text).to_have_text("ok")


@pytest.mark.contract("P3")
@pytest.mark.contract("M1")
def test_attempts_before_the_first_chunk_are_shown(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(*refusal(503, "busy", Retry_After="1"))
    provider.reply(*openai_answer("at last"))
    chat.open_monitor()
    chat.ask("hello")
    expect(chat.waiting).to_have_text(
        re.compile(r"^PROVIDER_OVERLOADED: attempt 2 of 3 (in \d\.\d s|now)$")
    )
    chat.is_done()
    expect(chat.text).to_have_text("at last")
    expect(chat.console).to_contain_text("PROVIDER_OVERLOADED: attempt 2 of 3 in 1")
    assert Run.objects.get().status == "done"


@pytest.mark.contract("S10")
@pytest.mark.contract("H12")
def test_a_connection_that_is_cut_is_resumed_with_nothing_lost_and_nothing_doubled(
    chat: Chat, openai: Configuration, provider: Provider, app: AppServer, watch: Watch
):
    watch.allow(NO_CONNECTION)
    gates = [threading.Event() for _ in range(3)]
    provider.reply(
        head(),
        send(openai_chunk("# One\n\n- a")),
        until(gates[0]),
        send(openai_chunk("bc\n- d")),
        until(gates[1]),
        send(openai_chunk("ef\n\nEnd")),
        until(gates[2]),
        *END,
    )
    chat.open_monitor()
    chat.ask("hello")
    expect(chat.block(1)).to_have_text("a")
    chat.block(0).evaluate("block => (block.firstElementChild.mark = 1)")
    for gate, said in ((gates[0], ["abc", "d"]), (gates[1], ["abc", "def"])):
        cut_all_connections(app)
        gate.set()
        expect(chat.text.locator("li")).to_have_text(said)
    cut_all_connections(app)
    gates[2].set()
    chat.is_done()
    expect(chat.text.locator("> .block")).to_have_count(3)
    expect(chat.text.locator("li")).to_have_text(["abc", "def"])
    expect(chat.block(2)).to_have_text("End")
    expect(chat.answer.locator("[data-connection]")).to_have_count(0)
    expect(chat.console).to_contain_text("Completed")
    assert chat.console.get_by_text("Stream started").count() == 1
    blocks = chat.blocks()
    chat.reload()
    assert chat.blocks() == blocks
    assert len(provider.requests) == 1


@pytest.mark.contract("H12")
@pytest.mark.contract("M1")
def test_while_the_network_is_away_one_quiet_sign_says_so(
    chat: Chat, openai: Configuration, provider: Provider, app: AppServer, watch: Watch
):
    watch.allow(NO_CONNECTION)
    gates = [threading.Event(), threading.Event()]
    provider.reply(
        head(),
        send(openai_chunk("before ")),
        until(gates[0]),
        send(openai_chunk("meanwhile ")),
        until(gates[1]),
        send(openai_chunk("after")),
        *END,
    )
    chat.open_monitor()
    chat.ask("hello")
    expect(chat.text).to_have_text("before")
    context = chat.page.context
    context.set_offline(True)
    cut_all_connections(app)
    gates[0].set()
    sign = chat.answer.locator("[data-connection]")
    expect(sign).to_be_visible()
    expect(sign).to_have_text("Reconnecting")
    expect(chat.console).to_contain_text("Connection lost")
    expect(chat.text).to_have_text("before")
    context.set_offline(False)
    expect(chat.text).to_have_text("before meanwhile")
    expect(sign).to_be_hidden()
    expect(chat.console).to_contain_text("Connection resumed")
    gates[1].set()
    chat.is_done()
    expect(chat.text).to_have_text("before meanwhile after")
    assert len(provider.requests) == 1
    assert chat.console.get_by_text("Connection lost").count() == 1


@pytest.mark.contract("H12")
def test_an_answer_that_ends_while_the_network_is_away_is_complete_when_it_is_back(
    chat: Chat,
    provider: Provider,
    app: AppServer,
    watch: Watch,
    open_browser: Callable[..., BrowserContext],
    ada_user: object,
):
    watch.allow(NO_CONNECTION)
    gate = threading.Event()
    provider.reply(
        head(), send(openai_chunk("first ")), until(gate), send(openai_chunk("second")), *END
    )
    chat.ask("hello")
    expect(chat.text).to_have_text("first")
    elsewhere = Chat(open_browser(ada_user).new_page()).open(chat.page.url)
    context = chat.page.context
    context.set_offline(True)
    cut_all_connections(app)
    gate.set()
    expect(chat.answer.locator("[data-connection]")).to_be_visible()
    elsewhere.is_done()
    expect(elsewhere.text).to_have_text("first second")
    context.set_offline(False)
    chat.is_done()
    expect(chat.text).to_have_text("first second")
    expect(chat.facts).to_contain_text("7 out")
    expect(chat.send_button).to_be_visible()


@pytest.mark.contract("M2")
def test_a_request_that_cannot_be_loaded_is_said_and_loaded_later(
    chat: Chat, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow(NO_CONNECTION)
    provider.reply(*openai_answer("fine"))
    chat.open_monitor()
    chat.page.route("**/monitor/runs/**", lambda route: route.abort())
    chat.ask("hello")
    chat.is_done()
    expect(chat.page.locator("[data-inspector-note]")).to_have_text(
        "not loaded: choose Details again"
    )
    chat.page.unroute("**/monitor/runs/**")
    chat.answer.get_by_role("link", name="Details").click()
    expect(chat.inspector).to_contain_text("Full request body")


def test_a_send_without_a_network_keeps_the_text(
    chat: Chat, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow(NO_CONNECTION)
    chat.page.context.set_offline(True)
    chat.ask("hello")
    expect(chat.notice).to_contain_text("The server cannot be reached. Your text is kept")
    expect(chat.box).to_have_value("hello")
    expect(chat.questions).to_have_count(0)
    chat.page.context.set_offline(False)
    provider.reply(*openai_answer("there you are"))
    chat.box.press("Enter")
    chat.is_done()
    expect(chat.text).to_have_text("there you are")
    expect(chat.questions).to_have_count(1)


def cut_all_connections(app: AppServer) -> None:
    """As a cable that is pulled: every socket of the server is reset, without a last word."""

    def cut() -> None:
        for connection in list(app._server.server_state.connections):
            connection.transport.abort()

    assert app.loop is not None
    app.loop.call_soon_threadsafe(cut)
