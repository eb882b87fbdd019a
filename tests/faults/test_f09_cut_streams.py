"""F9: the stream is cut. Its pieces are the uncut stream, and the provider is asked once."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from conversations.rendering import render
from providers.models import Configuration
from tests.faults import stored
from tests.faults.checks import drawn, page_of, watch
from tests.faults.raw import read_up_to
from tests.people import Person, Received, text_of
from tests.servers.processes import Process
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    head,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    openai_usage,
    send,
    until,
)
from tests.servers.sites import ADMIN, PASSWORD, Site, uvicorn

PIECES = ["Zürich ", "日本", "🎉 ", "`data: x`\n\n", "id: 7\n", "- one\n", "- two\n\n", "end."]
TEXT = "".join(PIECES)
OPENING = 2  # events before the first chunk
ALL = OPENING + len(PIECES) + 1
where = pytest.mark.parametrize("where", ["header", "query"])


class Gated:
    """A provider that sends each piece of its answer when somebody is there to read it."""

    def __init__(self, provider: Provider) -> None:
        self._gates = [threading.Event() for _ in PIECES]
        steps = [
            step
            for gate, piece in zip(self._gates, PIECES, strict=True)
            for step in (until(gate), send(openai_chunk(piece)))
        ]
        end = [send(openai_chunk(finish="stop")), send(openai_usage()), send(OPENAI_DONE)]
        provider.reply(head(), *steps, *end)

    def open(self, number: int) -> None:
        """Lets everything come up to the event with this number."""
        for gate in self._gates[: max(0, number - OPENING)]:
            gate.set()


def follow_from(person: Person, run: dict[str, Any], where: str, last_id: str) -> Any:
    """The stream after an event, whose id stands in the header or in the query."""
    headers = {"Last-Event-ID": last_id} if last_id and where == "header" else {}
    params = {"last_event_id": last_id} if last_id and where == "query" else {}
    return person.http.stream("GET", run["events_url"], headers=headers, params=params)


def read_in_pieces(
    person: Person, run: dict[str, Any], gated: Gated, where: str, most: int, count: int = ALL
) -> list[Received]:
    """The first events, each by a connection of its own that ends after it, or up to `most` bytes
    inside the next one."""
    chance = Random(most)
    seen: list[Received] = []
    while len(seen) < count:
        number = len(seen) + 1
        more = chance.randint(1, most) if most else 0
        gated.open(number + bool(more))
        with follow_from(person, run, where, seen[-1].id if seen else "") as response:
            assert response.status_code == 200
            seen += read_up_to(response, number, more)
        assert len(seen) == number
    return seen


@pytest.mark.contract("F9")
@pytest.mark.contract("S10")
@pytest.mark.usefixtures("invariants")
@where
@pytest.mark.parametrize("most", [0, 1, 60], ids=["at the end", "one byte inside", "inside"])
def test_a_live_stream_that_is_cut_at_every_event_is_the_uncut_one(
    ada: Person, openai: Configuration, provider: Provider, where: str, most: int
):
    gated = Gated(provider)
    chat = ada.new_chat()
    run = ada.ask(chat, "hello")
    pieces = read_in_pieces(ada, run, gated, where, most)
    assert pieces == ada.events(run)
    assert text_of(pieces) == TEXT
    assert pieces[-1].type == "done"
    assert len(provider.requests) == 1
    assert page_of(ada, chat).count("Zürich") == 1


@pytest.mark.contract("F9")
@pytest.mark.usefixtures("invariants")
def test_two_tabs_that_are_cut_in_different_places_have_the_same(
    ada: Person, openai: Configuration, provider: Provider
):
    gated = Gated(provider)
    run = ada.ask(ada.new_chat(), "hello")
    with ThreadPoolExecutor(2) as tabs:
        first = tabs.submit(read_in_pieces, ada, run, gated, "header", 0)
        second = tabs.submit(read_in_pieces, ada, run, gated, "query", 40)
        assert first.result() == second.result() == ada.events(run)
    assert len(provider.requests) == 1


def rich_answer(provider: Provider) -> None:
    """An answer with reasoning, text and a tool call."""
    thoughts = [send(openai_chunk(reasoning=piece)) for piece in ("Hm, ", "日本? ")]
    text = [step for piece in PIECES for step in openai_answer(piece, pause=0.005)[1:3]]
    end = [send(openai_chunk(finish="tool_calls")), send(openai_usage()), send(OPENAI_DONE)]
    provider.reply(head(), *thoughts, *text, *openai_tool_call("search", '{"q":', '"x"}'), *end)


@pytest.mark.contract("F9")
@pytest.mark.contract("S10")
@pytest.mark.usefixtures("invariants")
@where
def test_a_finished_run_can_be_read_from_every_position(
    ada: Person, openai: Configuration, provider: Provider, where: str
):
    rich_answer(provider)
    watched = watch(ada)
    whole = watched.events
    for position in range(1, len(whole)):
        with follow_from(ada, watched.run, where, whole[position - 1].id) as response:
            assert read_up_to(response, len(whole)) == whole[position:]
    with follow_from(ada, watched.run, where, whole[-1].id) as response:
        assert (response.status_code, response.read()) == (204, b"")
    assert len(provider.requests) == 1


@pytest.mark.contract("F9")
@pytest.mark.usefixtures("invariants")
def test_a_page_that_returns_to_a_finished_run_from_any_position_draws_the_same(
    ada: Person, openai: Configuration, provider: Provider
):
    rich_answer(provider)
    watched = watch(ada)
    expected = dict(enumerate(render(TEXT)))
    others = [event for event in watched.events if event.type not in ("chunk", "done")]
    for position in range(len(watched.events) - 1):
        last_id = watched.events[position - 1].id if position else ""
        events = ada.events(watched.run, last_event_id=last_id, view="html")
        assert drawn(events) == expected
        rest = [event for event in events if event.type not in ("block", "done")]
        assert rest == [event for event in others if event.number > position]


def end_of(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    process.end()


@pytest.mark.contract("F9")
def test_a_restart_between_two_pieces_changes_nothing(sqlite_site: Site, provider: Provider):
    gated = Gated(provider)
    with uvicorn(sqlite_site) as (process, url), Person(url, ADMIN, PASSWORD) as admin:
        chats = [admin.new_chat() for _ in range(2)]
        cut = admin.ask(chats[0], "is cut off")
        provider.wait_for_request()
        rich_answer(provider)
        finished = admin.ask(chats[1], "is finished before")
        uncut = admin.events(finished)
        first = [read_in_pieces(admin, cut, gated, "header", 0, OPENING + 4), uncut[:5]]
        end_of(process)
    with uvicorn(sqlite_site) as (process, url), Person(url, ADMIN, PASSWORD) as admin:
        rests = [
            admin.events(run, last_event_id=seen[-1].id)
            for run, seen in zip((cut, finished), first, strict=True)
        ]
        assert first[1] + rests[1] == uncut == admin.events(finished)
        assert first[0] + rests[0] == admin.events(cut)
        assert [event.data["code"] for event in rests[0]] == ["INTERRUPTED"]
        assert text_of(first[0]) == "".join(PIECES[:4])
        for chat in chats:
            assert page_of(admin, chat).count("Zürich") == 1
        assert stored.faults(sqlite_site, admin) == []
    assert len(provider.requests) == 2
