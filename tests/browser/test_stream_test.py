"""The stream test page, and what its delivery test says behind a real nginx (M3)."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from conversations.models import ChatSession, Run, UsageLog
from providers.models import Configuration
from tests.browser.chat import END
from tests.browser.watch import Watch
from tests.servers.app import AppServer
from tests.servers.nginx import COMPRESSING, HOLDING, IGNORING, Nginx, NoNginx
from tests.servers.provider import Provider, Step, hang, head, openai_chunk, send, until, wait


def figure(page: Page, name: str) -> Any:
    return page.locator(f'[data-figure="{name}"]')


@pytest.mark.contract("M3")
def test_a_stream_is_tested_from_its_start_to_its_end_without_a_chat(
    page: Page, openai: Configuration, provider: Provider
):
    gate = threading.Event()
    chunks: list[Step] = [send(openai_chunk("Rivers ")), wait(0.1), send(openai_chunk("find "))]
    provider.reply(head(), *chunks, until(gate), send(openai_chunk("the <b>sea</b>.")), *END)
    page.goto("/monitor/test/")
    expect(page.get_by_role("link", name="Stream test")).to_have_attribute("aria-current", "page")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens").fill("100")
    page.get_by_label("Prompt").fill("Tell me")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("region", name="Answer")).to_have_text("Rivers find")
    expect(figure(page, "state")).to_have_text("Streaming")
    expect(figure(page, "chunks")).to_have_text("2")
    expect(figure(page, "first")).to_have_text(re.compile(r"^\d+\.\d\d s$"))
    sent = provider.wait_for_request().json
    assert (sent["temperature"], sent["max_completion_tokens"]) == (0.5, 100)
    assert sent["messages"] == [{"role": "user", "content": "Tell me"}]
    gate.set()
    expect(figure(page, "state")).to_have_text("Done, $0.000025")
    expect(page.get_by_role("region", name="Answer")).to_have_text("Rivers find the <b>sea</b>.")
    expect(figure(page, "chunks")).to_have_text("3")
    expect(figure(page, "tokens")).to_have_text("7")
    expect(page.locator("[data-gaps] rect")).to_have_count(2)
    assert not ChatSession.objects.exists()
    assert UsageLog.objects.get().origin == "stream_test"
    page.get_by_role("link", name="Details").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("double-1")


@pytest.mark.contract("M3")
def test_a_stream_test_is_stopped_cleared_and_refused_in_words(
    page: Page, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("422")
    provider.reply(head(), send(openai_chunk("part of it")), hang())
    page.goto("/monitor/test/")
    page.get_by_label("Temperature").fill("3")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("Give a number from 0 to 2")).to_be_visible()
    assert not provider.requests
    page.get_by_label("Temperature").fill("")
    page.get_by_role("button", name="Start", exact=True).click()
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_have_text("part of it")
    expect(page.get_by_text("Give a number from 0 to 2")).to_have_count(0)
    page.locator("[data-stream-test]").get_by_role("button", name="Stop").click()
    expect(figure(page, "state")).to_have_text(re.compile("^Stopped"))
    provider.wait_for_request().wait_for_close()
    assert Run.objects.get().status == "stopped"
    page.get_by_role("button", name="Clear").click()
    expect(answer).to_have_text("")
    expect(figure(page, "chunks")).to_have_text("0")
    expect(figure(page, "state")).to_have_text("Ready")


# ---- delivery


@pytest.fixture
def behind(app: AppServer, open_browser: Callable[..., BrowserContext], ada_user: User) -> Any:
    """Opens the page behind an nginx with these directives."""
    servers: list[Nginx] = []

    def open_page(*directives: str) -> Page:
        try:
            servers.append(Nginx(app.url, *directives).__enter__())
        except NoNginx as reason:
            pytest.skip(str(reason))
        page = open_browser(ada_user, base_url=servers[-1].url).new_page()
        page.goto("/monitor/test/")
        return page

    yield open_page
    for server in servers:
        server.__exit__()


def verdict_on(page: Page, *, silence: float) -> Any:
    """The verdict on 10 events at 50 ms and so many seconds of silence."""
    page.get_by_label("Events").fill("10")
    page.get_by_label("Pace").fill("0.05")
    page.get_by_label("Silence").fill(str(silence))
    page.get_by_role("button", name="Test delivery").click()
    verdict = page.locator("[data-verdict]")
    expect(verdict).not_to_have_attribute("data-state", "running")
    return verdict


def test_streams_that_come_straight_from_the_server_are_live(page: Page):
    page.goto("/monitor/test/")
    verdict = verdict_on(page, silence=1.5)
    expect(verdict).to_have_attribute("data-state", "live")
    expect(verdict).to_contain_text("10 of 10")
    expect(verdict.locator("details")).to_have_count(0)


@pytest.mark.parametrize(
    "directives",
    [
        (),  # our streams ask it for what they need
        (IGNORING, "proxy_buffering off;"),
        (IGNORING, "proxy_buffering on;"),
        ("proxy_buffering on;", *COMPRESSING),
    ],
    ids=["as it comes", "buffering off", "buffering on", "asked not to buffer, compressing"],
)
def test_streams_behind_an_nginx_that_passes_them_on_are_live(behind: Any, directives: Any):
    expect(verdict_on(behind(*directives), silence=0)).to_have_attribute("data-state", "live")


def test_a_buffering_nginx_is_found_with_the_line_that_mends_it(behind: Any):
    page = behind(*HOLDING)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    verdict = verdict_on(page, silence=0.5)
    expect(verdict).to_have_attribute("data-state", "buffered")
    expect(verdict).to_contain_text("everything came at the end")
    expect(verdict).to_contain_text("gzip")
    likely = verdict.locator("details").first
    expect(likely).to_have_attribute("open", "")
    expect(likely).to_contain_text("nginx, which seems to stand in between")
    expect(likely.locator("code")).to_have_text("proxy_buffering off;\ngzip off;")
    likely.get_by_role("button", name="Copy").click()
    expect(likely.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("proxy_buffering off;")


def test_an_nginx_that_loses_patience_is_found_with_the_line_that_mends_it(
    behind: Any, settings: Any, watch: Watch
):
    watch.allow("ERR_INCOMPLETE_CHUNKED_ENCODING")
    settings.HEARTBEAT_INTERVAL = 10
    verdict = verdict_on(behind("proxy_read_timeout 1s;"), silence=4)
    expect(verdict).to_have_attribute("data-state", "cut")
    expect(verdict).to_contain_text(re.compile(r"Cut after [12]\.\d\d s"))
    expect(verdict).to_contain_text(re.compile(r"closed after [01]\.\d\d s without data"))
    expect(verdict.locator("details").first.locator("code")).to_have_text("proxy_read_timeout 60s;")


# ---- the judgement alone

JUDGE = """async (record) => {
  const { advice, judge, proxyOf, words } = await import('/static/js/delivery.js');
  const found = judge(record);
  return {
    ...found,
    title: words(found, record).title,
    advice: advice(found, proxyOf(record.headers)),
  };
}"""
DIRECT = {"server": "daphne", "x-accel-buffering": "no"}


def record(arrivals: list[float], end: float | None, ended: float, **more: Any) -> dict[str, Any]:
    """20 events at 100 ms, of which these arrived when it says, and 12 s of silence."""
    return {
        "status": 200,
        "type": "text/event-stream",
        "headers": DIRECT,
        "of": 20,
        "interval": 0.1,
        "silence": 12,
        "events": [
            {"sentAt": index / 10, "arrivedAt": arrived} for index, arrived in enumerate(arrivals)
        ],
        "end": None if end is None else {"sentAt": 13.9, "arrivedAt": end},
        "endedAt": ended,
        "lastByteAt": more.pop("lastByteAt", ended),
        **more,
    }


PACED = [100.05 + index / 10 for index in range(20)]  # on a clock of another beginning


def test_every_way_in_which_a_stream_may_arrive_is_judged(page: Page):
    page.goto("/monitor/test/")

    def judged(record: dict[str, Any]) -> Any:
        return page.evaluate(JUDGE, record)

    live = judged(record(PACED, 113.95, 113.96))
    assert (live["verdict"], live["advice"], live["lumps"]) == ("live", [], 20)
    # One late event is the network's, and no proxy's.
    hiccup = [*PACED[:10], 101.9, *[max(at, 101.9) for at in PACED[11:]]]
    assert judged(record(hiccup, 113.95, 113.96))["verdict"] == "live"

    at_end = judged(record([113.95] * 20, 113.95, 113.96))
    assert (at_end["verdict"], at_end["isAtEnd"]) == ("buffered", True)
    assert at_end["heldFor"] == pytest.approx(13.9)
    lumps = judged(record([101.0] * 10 + [102.0] * 10, 113.95, 113.96))
    assert (lumps["verdict"], lumps["lumps"]) == ("buffered", 2)
    assert lumps["title"] == "Buffered: 20 events came in 2 lumps"

    silent = judged(record(PACED, None, 107, lastByteAt=101.95))
    assert (silent["verdict"], silent["isHeld"], silent["isByTime"]) == ("cut", False, False)
    assert silent["silentFor"] == pytest.approx(5.05)
    by_time = judged(record(PACED[:15], None, 101.5))
    assert (by_time["verdict"], by_time["isByTime"]) == ("cut", True)
    both = judged(record([107.0] * 20, None, 107))
    assert (both["verdict"], both["isHeld"]) == ("cut", True)
    lines = {advice["proxy"]: advice["lines"] for advice in both["advice"]}
    assert lines["nginx"].split("\n") == [
        "proxy_buffering off;",
        "gzip off;",
        "proxy_read_timeout 60s;",
    ]
    assert set(lines) == {"nginx", "apache", "caddy", "traefik", "iis"}
    nothing = judged(record([], None, 60))
    assert (nothing["verdict"], nothing["title"]) == ("cut", "Cut after 60.0 s")
    refused = judged(record([], None, 60, status=504, type="text/html"))
    assert (refused["verdict"], refused["advice"]) == ("failed", [])


def test_the_proxy_is_known_by_its_headers(page: Page):
    page.goto("/monitor/test/")
    for headers, proxy in (
        (DIRECT, None),
        ({"server": "nginx/1.22.1"}, "nginx"),
        ({"server": "daphne"}, "nginx"),  # it hides its name, but takes out the other header
        ({**DIRECT, "server": "Apache/2.4.62 (Debian)"}, "apache"),
        ({**DIRECT, "via": "1.1 Caddy"}, "caddy"),
        ({**DIRECT, "server": "Microsoft-IIS/10.0"}, "iis"),
    ):
        found = page.evaluate(JUDGE, record([113.95] * 20, 113.95, 113.96, headers=headers))
        likely = [advice["proxy"] for advice in found["advice"] if advice["isLikely"]]
        assert likely == ([proxy] if proxy else [])
        assert len(found["advice"]) == 5
