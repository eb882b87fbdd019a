"""A page gets all of an answer, once, through whatever network there is, and checks that it has it
(S10, H12, issue 3)."""

import re
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, Route, expect

from conversations.events import block, encode
from conversations.models import Message, Run
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.browser.watch import Watch
from tests.people import parse
from tests.servers.app import AppServer
from tests.servers.provider import (
    Provider,
    Step,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)
from tests.servers.proxy import Mode, Proxy

# What Chromium and htmx write to the console about requests that do not get through.
NO_CONNECTION = r"net::ERR_|htmx:(afterRequest|sendError)"
HELD_BACK = "The connection holds the stream back; asking every second instead"
EVENTS = re.compile(r"^/runs/[0-9a-f-]+/events/")
LONG = 30_000  # ms, for what takes as long as a page waits before it gives up a request


@pytest.fixture
def proxy(app: AppServer) -> Iterator[Proxy]:
    """What is between the page and the app."""
    port = urlsplit(app.url).port
    assert port
    with Proxy(port) as running:
        yield running


@pytest.fixture
def behind(proxy: Proxy, open_browser: Callable[..., BrowserContext], ada_user: User) -> Page:
    """A page of Ada's that reaches the app through the proxy."""
    return open_browser(ada_user, base_url=proxy.url).new_page()


@pytest.fixture
def far(behind: Page, openai: Configuration) -> Chat:
    """An empty chat of Ada's there, with its console."""
    return Chat(behind).open("/").open_monitor()


def in_pieces(provider: Provider, *pieces: str) -> list[threading.Event]:
    """An answer that waits for a gate before each piece but the first, and before its end."""
    gates = [threading.Event() for _ in pieces]
    steps: list[Step] = [head(), send(openai_chunk(pieces[0]))]
    for gate, piece in zip(gates, pieces[1:], strict=False):
        steps += [until(gate), send(openai_chunk(piece))]
    provider.reply(*steps, until(gates[-1]), *END)
    return gates


def is_complete(chat: Chat, text: str) -> None:
    """It stands there once, has passed the check, and is what a reload shows."""
    chat.is_done()
    expect(chat.text).to_have_text(text)
    expect(chat.console).to_contain_text(re.compile(r"Text complete: [\d,]+ characters?, checked"))
    assert chat.console.get_by_text("Stream started").count() == 1
    assert chat.console.get_by_text("Completed").count() == 1
    assert Message.objects.get(role="assistant").content == text
    blocks = chat.blocks()
    chat.reload()
    assert chat.blocks() == blocks


def said(chat: Chat, line: str) -> int:
    return chat.console.get_by_text(line).count()


class TestAProxyThatHoldsTheStreamBack:
    @pytest.mark.contract("S1")
    @pytest.mark.parametrize("mode", [Mode.HOLD, Mode.HOLD_BODY, Mode.BLOCKS])
    def test_the_text_comes_while_it_is_written_all_the_same(
        self, far: Chat, provider: Provider, proxy: Proxy, mode: Mode
    ):
        gates = in_pieces(provider, "first ", "second ", "third ", "last")
        proxy.mode = mode
        far.ask("hello")
        expect(far.text).to_have_text("first")
        gates[0].set()
        expect(far.text).to_have_text("first second")
        expect(far.console).to_contain_text(HELD_BACK)
        gates[1].set()
        expect(far.text).to_have_text("first second third")
        gates[2].set()
        expect(far.text).to_have_text("first second third last")
        expect(far.answer).to_have_attribute("data-status", "running")
        assert len(proxy.affected) == 2
        gates[3].set()
        far.is_done()
        assert said(far, HELD_BACK) == 1
        assert said(far, "Connection lost") == 0
        is_complete(far, "first second third last")

    def test_what_it_lets_through_late_is_not_shown_twice(
        self, far: Chat, provider: Provider, proxy: Proxy
    ):
        gates = in_pieces(provider, "One.\n\n", "Two.\n\n", "Three.")
        proxy.mode = Mode.HOLD
        far.ask("hello")
        expect(far.text).to_have_text("One.")
        proxy.mode = Mode.PASS
        gates[0].set()
        expect(far.block(1)).to_have_text("Two.")
        gates[1].set()
        expect(far.block(2)).to_have_text("Three.")
        gates[2].set()
        far.is_done()
        assert said(far, "Stream started") == 1
        assert said(far, "Request to") == 1
        expect(far.text.locator("> .block")).to_have_text(["One.", "Two.", "Three."])

    def test_being_signed_out_is_said_there_too(
        self, far: Chat, provider: Provider, proxy: Proxy, watch: Watch
    ):
        watch.allow(r"401 \(Unauthorized\)|status of 401")
        gates = in_pieces(provider, "first ", "second")
        proxy.mode = Mode.HOLD
        far.ask("hello")
        expect(far.text).to_have_text("first")
        far.page.context.clear_cookies(name="sessionid")
        expect(far.notice).to_contain_text("You are signed out")
        gates[0].set()
        gates[1].set()


class TestAConnectionThatDiesUnnoticed:
    @pytest.mark.contract("H12")
    def test_another_one_takes_its_place(self, far: Chat, provider: Provider, proxy: Proxy):
        gates = in_pieces(provider, "before ", "meanwhile ", "after")
        far.ask("hello")
        expect(far.text).to_have_text("before")
        proxy.lose_streams()
        gates[0].set()
        expect(far.text).to_have_text("before meanwhile")
        proxy.wait_for_stream(2)
        gates[1].set()
        expect(far.text).to_have_text("before meanwhile after")
        gates[2].set()
        far.is_done()
        assert said(far, HELD_BACK) == 0
        assert said(far, "Connection lost") == 0
        is_complete(far, "before meanwhile after")

    @pytest.mark.contract("H12")
    def test_a_page_that_is_looked_at_again_asks_at_once(
        self, behind: Page, openai: Configuration, provider: Provider, proxy: Proxy
    ):
        gates = in_pieces(provider, "before ", "meanwhile")
        behind.clock.install()
        chat = Chat(behind).open("/").open_monitor()
        chat.ask("hello")
        expect(chat.text).to_have_text("before")
        # The machine sleeps: no timer of the page runs, only the time of day goes on.
        behind.clock.pause_at(behind.evaluate("() => Date.now() / 1000 + 1"))
        proxy.lose_streams()
        gates[0].set()
        behind.clock.set_system_time(behind.evaluate("() => Date.now() / 1000 + 3600"))
        with behind.expect_response(re.compile("poll=1")):
            behind.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        behind.clock.resume()
        expect(chat.text).to_have_text("before meanwhile")
        gates[1].set()
        chat.is_done()
        assert said(chat, HELD_BACK) == 0
        is_complete(chat, "before meanwhile")

    @pytest.mark.contract("H12")
    def test_where_nothing_gets_through_one_quiet_sign_says_so(
        self, far: Chat, provider: Provider, proxy: Proxy, watch: Watch
    ):
        watch.allow(NO_CONNECTION)
        gates = in_pieces(provider, "before ", "meanwhile ", "after")
        far.ask("hello")
        expect(far.text).to_have_text("before")
        sign = far.answer.locator("[data-connection]")
        proxy.is_affected = lambda path: EVENTS.match(path) is not None  # polls as well
        proxy.mode = Mode.BLACK_HOLE
        gates[0].set()
        expect(sign).to_have_text("Reconnecting", timeout=LONG)
        expect(sign).to_be_visible(timeout=LONG)
        expect(far.text).to_have_text("before")
        proxy.mode = Mode.PASS
        expect(far.text).to_have_text("before meanwhile", timeout=LONG)
        expect(sign).to_be_hidden()
        gates[1].set()
        expect(far.text).to_have_text("before meanwhile after")
        gates[2].set()
        far.is_done()
        assert said(far, "Connection lost") == said(far, "Connection resumed") == 1
        is_complete(far, "before meanwhile after")


class TestAServerThatIsAway:
    @pytest.mark.contract("H12")
    @pytest.mark.contract("F16")
    def test_a_restart_costs_nothing_but_time(
        self, far: Chat, provider: Provider, proxy: Proxy, watch: Watch
    ):
        watch.allow(NO_CONNECTION)
        gates = in_pieces(provider, "before ", "meanwhile ", "after")
        far.ask("hello")
        expect(far.text).to_have_text("before")
        sign = far.answer.locator("[data-connection]")
        proxy.go_down()
        expect(sign).to_be_visible()
        gates[0].set()
        proxy.come_back()
        expect(far.text).to_have_text("before meanwhile")
        expect(sign).to_be_hidden()
        gates[1].set()
        expect(far.text).to_have_text("before meanwhile after")
        gates[2].set()
        far.is_done()
        assert said(far, "Connection lost") == said(far, "Connection resumed") == 1
        is_complete(far, "before meanwhile after")

    @pytest.mark.contract("H12")
    def test_the_network_goes_and_comes_while_a_connection_seems_to_be_there(
        self, far: Chat, provider: Provider, proxy: Proxy, watch: Watch
    ):
        watch.allow(NO_CONNECTION)
        gates = in_pieces(provider, "before ", "meanwhile")
        far.ask("hello")
        expect(far.text).to_have_text("before")
        proxy.lose_streams()
        far.page.context.set_offline(True)
        gates[0].set()
        expect(far.answer.locator("[data-connection]")).to_be_visible()
        far.page.context.set_offline(False)
        expect(far.text).to_have_text("before meanwhile")
        gates[1].set()
        far.is_done()
        is_complete(far, "before meanwhile")

    @pytest.mark.contract("S10")
    def test_a_log_that_a_crash_has_cut_is_shown_from_its_new_start(
        self, chat: Chat, provider: Provider
    ):
        """The page has seen more than what is stored, as after a power failure."""
        provider.reply(*openai_answer("What is stored.", reasoning=["Stored thoughts"]))

        answers: list[str] = []

        def answer(route: Route) -> None:
            if answers:
                route.continue_()  # the browser reconnects by itself, from number 900
                return
            answers.append(f"retry: 100\n{shown_before(route.request.url.split('/')[-3])}")
            route.fulfill(body=answers[0], content_type="text/event-stream")

        chat.page.route("**/events/?view=html", answer)
        chat.open_monitor().ask("hello")
        chat.is_done()
        expect(chat.text).to_have_text("What is stored.")
        expect(chat.answer.locator("[data-thinking-text]")).to_have_text("Stored thoughts")
        assert answers
        expect(chat.console).to_contain_text("Text complete: 15 characters, checked")
        assert said(chat, "Stream started") == 2


def shown_before(run_id: str) -> str:
    """Events that a server has sent, and lost."""
    metadata = {
        "type": "metadata",
        "run_id": run_id,
        "user_message_id": 1,
        "user_prompt": "hello",
        "input_tokens": 3,
        "context_size": 0,
    }
    lost = {"type": "reasoning", "content": "Lost thoughts", "tokens": 2}
    blocks = [block(index, f"<p>Lost {index}.</p>", is_open=False, tokens=9) for index in range(3)]
    events = [(1, encode(metadata)), (3, encode(lost)), *[(900, data) for data in blocks]]
    return "".join(f"id: {run_id}:{number}\ndata: {data}\n\n" for number, data in events)


class TestTheCheckAtTheEnd:
    TEXT = "A precious paragraph.\n\n- 🎉 one\n- two\n"

    def answered(self, chat: Chat, provider: Provider) -> None:
        """The answer, of which the first block is finished before the second one begins."""
        gate = threading.Event()
        start, emoji, rest = self.TEXT.partition("🎉")
        provider.reply(
            head(), send(openai_chunk(start + emoji)), until(gate), send(openai_chunk(rest)), *END
        )
        chat.ask("hello")
        expect(chat.block(1)).to_be_attached()
        self.first = chat.block(0).inner_text()
        gate.set()
        chat.is_done()

    def is_right(self, chat: Chat) -> None:
        expect(chat.block(0)).to_have_text("A precious paragraph.")
        expect(chat.text.locator("li")).to_have_text(["🎉 one", "two"])
        blocks = chat.blocks()
        chat.reload()
        assert chat.blocks() == blocks

    def test_a_text_that_is_whole_is_quietly_said_to_be(self, chat: Chat, provider: Provider):
        self.answered(chat.open_monitor(), provider)
        assert len(self.TEXT) == 37
        expect(chat.console).to_contain_text("Text complete: 37 characters, checked")
        self.is_right(chat)

    @pytest.mark.parametrize(
        ("sent", "arrives", "shows"),
        [
            (b"precious", b"previous", "A previous paragraph."),
            (b'{"type":"block","index":0', b'{"type" "block","index":0', ""),
        ],
        ids=["changed", "lost"],
    )
    def test_what_was_damaged_on_its_way_is_seen_repaired_and_counted_once(
        self,
        far: Chat,
        provider: Provider,
        proxy: Proxy,
        watch: Watch,
        sent: bytes,
        arrives: bytes,
        shows: str,
    ):
        proxy.rewrite = lambda piece: piece.replace(sent, arrives)
        watch.mismatches = 1
        with far.page.expect_response("**/mismatch/") as report:
            self.answered(far, provider)
        assert report.value.status == 204
        assert self.first == shows
        expect(far.console).to_contain_text("What arrived differed from what is stored: read again")
        assert said(far, "Text complete") == 0
        self.is_right(far)

    @pytest.mark.parametrize(
        ("arrives", "line"),
        [
            (b"precious", "Text complete: 37 characters, checked by length"),
            # As many bytes, but fewer characters: on its way JSON may say them in either form.
            (b"pr\\u0065", "What arrived differed from what is stored: read again"),
        ],
        ids=["whole", "damaged"],
    )
    def test_pages_that_came_by_plain_http_compare_lengths(
        self,
        behind: Page,
        openai: Configuration,
        provider: Provider,
        proxy: Proxy,
        watch: Watch,
        arrives: bytes,
        line: str,
    ):
        # What browsers leave out there; pages from 127.0.0.1 are exempt from that.
        behind.add_init_script(
            "Object.defineProperty(Crypto.prototype, 'subtle', { value: undefined })"
        )
        proxy.rewrite = lambda piece: piece.replace(b"precious", arrives)
        watch.mismatches = int(arrives != b"precious")
        far = Chat(behind).open("/").open_monitor()
        self.answered(far, provider)
        expect(far.console).to_contain_text(line)
        self.is_right(far)


class TestTheParserOfPolls:
    """static/js/sse.js: the server's own form, and nothing else."""

    PARSE = "async (text) => (await import('/static/js/sse.js')).parse(text)"
    ID = "12345678-1234-1234-1234-123456789abc:7"

    def test_it_reads_what_the_server_writes(
        self, chat: Chat, provider: Provider, ada_user: User, app: AppServer
    ):
        provider.reply(*openai_answer("Zürich \u2028 data: x\n\nid: 7\r\n🎉"))
        chat.ask("hello")
        chat.is_done()
        url = f"/runs/{Run.objects.get().pk}/events/?poll=1"
        text = chat.page.request.get(url).text()
        strict = [(event.id, encode(event.data)) for event in parse(iter(text.split("\n")))]
        found = chat.page.evaluate(self.PARSE, text)
        assert [(event["lastEventId"], event["data"]) for event in found] == strict
        assert len(strict) == 4

    def test_it_takes_nothing_else(self, chat: Chat):
        good = f'id: {self.ID}\ndata: {{"a":1}}\n\n'
        parse_or_not = f"(text) => ({self.PARSE})(text).then((e) => e.length, (e) => e.name)"
        assert chat.page.evaluate(parse_or_not, good) == 1
        assert chat.page.evaluate(parse_or_not, f": ping\n\n{good}: ping\n\n") == 1
        for bad in (
            "",
            good[:-1],
            good[:-2],
            good + "id: ",
            good.replace("\n", "\r\n"),
            good.replace("id: ", "id:"),
            good.replace(":7", ":x"),
            good.replace("data: ", "data: \ndata: "),
            f"\n{good}",
            f"<!DOCTYPE html>\n\n{good}",
            ": pong\n\n",
        ):
            assert chat.page.evaluate(parse_or_not, bad) == "SyntaxError", bad
