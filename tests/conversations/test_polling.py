"""Asking for what there is: `poll=1`, for pages that no stream reaches (S1, S2, S9, S10)."""

import threading
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from conversations.models import Message, Run
from conversations.rendering import render
from conversations.views import streams
from providers.models import Configuration
from tests.conversations.test_journal import Owner, end, event
from tests.people import DEADLINE, Person, Received, lines_of, parse, text_of
from tests.servers.provider import Provider, Step, head, openai_answer, openai_chunk, send, until

TEXT = (
    "Intro with **bold**.\n\n- one\n- two\n\n```python\nprint(1)\n```\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\nThe [end][1]. 日本 🎉\n\n[1]: https://example.com\n"
)


def poll(person: Person, run: dict[str, Any], after: str = "", view: str = "") -> httpx.Response:
    params = {"poll": "1", "last_event_id": after, "view": view}
    return person.http.get(
        run["events_url"], params={name: value for name, value in params.items() if value}
    )


def events_of(answer: httpx.Response) -> list[Received]:
    assert answer.status_code == 200, answer.status_code
    assert answer.text.endswith("\n\n")
    return list(parse(lines_of(answer)))


def half_answered(ada: Person, provider: Provider) -> tuple[dict[str, Any], threading.Event]:
    """A run that has shown "first " and waits for the gate before it goes on."""
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk("first ")), until(gate), *openai_answer("second")[1:])
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "chunk")
    return run, gate


def in_steps(text: str, size: int) -> list[Step]:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return openai_answer(*pieces, pause=0.02)


def polled(ada: Person, run: dict[str, Any], view: str = "") -> list[Received]:
    """All that polls bring, each from where the one before ended, until there is nothing more."""
    seen: list[Received] = []
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        answer = poll(ada, run, seen[-1].id if seen else "", view)
        if answer.status_code == 204:
            return seen
        seen += events_of(answer)
    raise AssertionError("the run does not end")


@pytest.mark.contract("S1")
@pytest.mark.contract("S10")
def test_a_poll_answers_at_once_and_whole_while_the_run_goes_on(
    ada: Person, openai: Configuration, provider: Provider
):
    run, gate = half_answered(ada, provider)
    answer = poll(ada, run)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    seen = events_of(answer)
    assert [event.type for event in seen] == ["metadata", "request_data", "chunk"]
    assert [event.name for event in seen] == [None, "request_data", None]
    assert Run.objects.get().status == "running"
    gate.set()
    whole = ada.events(run)
    assert whole[:3] == seen


@pytest.mark.contract("S9")
@pytest.mark.parametrize("view", ["", "html"])
def test_where_nothing_is_new_a_poll_says_so_at_once(
    ada: Person, openai: Configuration, provider: Provider, view: str
):
    run, gate = half_answered(ada, provider)
    last = events_of(poll(ada, run, view=view))[-1]
    answer = poll(ada, run, last.id, view)
    assert (answer.status_code, answer.content) == (200, b": ping\n\n")
    gate.set()
    rest = ada.events(run, last_event_id=last.id)
    assert text_of(rest) == "second"


@pytest.mark.contract("S10")
def test_polls_from_position_to_position_bring_what_the_stream_brings(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*in_steps(TEXT, 3))
    run = ada.ask(ada.new_chat(), "hello")
    seen = polled(ada, run)
    assert seen == ada.events(run)
    assert text_of(seen) == TEXT == Message.objects.get(role="assistant").content


@pytest.mark.contract("S2")
def test_polls_for_the_page_end_with_the_blocks_of_a_reload(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*in_steps(TEXT, 3))
    run = ada.ask(ada.new_chat(), "hello")
    seen = polled(ada, run, "html")
    blocks = {event.data["index"]: event.data["html"] for event in seen if event.type == "block"}
    assert {index: html for index, html in blocks.items() if html} == dict(enumerate(render(TEXT)))
    assert not [event for event in seen if event.type == "chunk"]
    assert any(event.data.get("open") for event in seen)
    numbers = [event.number for event in seen]
    assert numbers == sorted(numbers)
    assert [event.type for event in seen].count("done") == 1
    assert seen[-1].type == "done"


@pytest.mark.contract("S10")
@pytest.mark.parametrize("view", ["", "html"])
def test_a_finished_run_is_polled_to_its_end_and_then_204(
    ada: Person, openai: Configuration, provider: Provider, view: str
):
    provider.reply(*openai_answer("a", "b"))
    run = ada.ask(ada.new_chat(), "hello")
    whole = ada.events(run)
    seen = events_of(poll(ada, run, view=view))
    assert seen[-1].type == "done"
    assert seen[-1].number == whole[-1].number
    if not view:
        for position in range(len(whole) - 1):
            assert events_of(poll(ada, run, whole[position].id)) == whole[position + 1 :]
    after_the_end = poll(ada, run, whole[-1].id, view)
    assert (after_the_end.status_code, after_the_end.content) == (204, b"")


@pytest.mark.contract("S10")
@pytest.mark.parametrize("view", ["", "html"])
def test_a_position_beyond_what_is_stored_starts_over(
    ada: Person, openai: Configuration, provider: Provider, view: str
):
    provider.reply(*openai_answer("x"))
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    whole = events_of(poll(ada, run, view=view))
    assert whole[0].number == 1
    assert events_of(poll(ada, run, f"{run['run_id']}:9999", view)) == whole


@pytest.mark.contract("S10")
@pytest.mark.parametrize("text", ["nonsense", "7", "{run}:x", "{other}:1"])
def test_what_is_no_id_of_this_run_is_refused(
    ada: Person, openai: Configuration, provider: Provider, text: str
):
    provider.reply(*openai_answer("x"))
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    answer = poll(ada, run, text.format(run=run["run_id"], other=uuid4()))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "UNREADABLE"


@pytest.mark.contract("A9")
def test_only_its_own_person_polls_a_run(
    ada: Person, make_person: Any, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("x"))
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    stranger = make_person("bob")
    assert poll(stranger, run).status_code == 404
    unknown = {"events_url": f"/runs/{uuid4()}/events/"}
    assert poll(stranger, run).content == poll(stranger, unknown).content
    stranger.http.cookies.clear()
    assert poll(stranger, run).status_code == 401


def test_a_poll_is_no_stream_and_is_answered_when_no_more_streams_are(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.STREAMS_PER_USER = 1
    run, gate = half_answered(ada, provider)
    with ada.follow(run["events_url"]) as stream:
        next(stream)
        assert ada.get(run["events_url"]).status_code == 429
        assert [event.type for event in events_of(poll(ada, run))][-1] == "chunk"
        assert sum(streams.open_by_user.values()) == 1
    gate.set()
    polled(ada, run)


@pytest.mark.django_db(transaction=True)
class TestWhatThereIsNow:
    """`Journal.read_now`, where a run's events are in two places."""

    async def test_it_has_what_is_too_young_to_be_stored(self):
        async with Owner(store_interval=60) as owner:
            owner.append(5)
            assert await owner.stored() == [1, 2]
            assert await self.read(owner) == [1, 2, 3, 4, 5, 6, 7]
            assert await self.read(owner, 4) == [5, 6, 7]
            assert await self.read(owner, 7) == []

    async def test_it_joins_what_is_stored_with_what_only_the_bus_has(self):
        async with Owner() as owner:
            owner.append(5)
            await owner.until_stored(7)
            owner.bus.forget(owner.run_id)
            owner.bus.publish(owner.run_id, [event(8), event(9)])
            assert await self.read(owner) == [1, 2, 3, 4, 5, 6, 7, 8, 9]

    async def test_it_has_no_gap_where_something_is_on_its_way_from_one_to_the_other(self):
        async with Owner() as owner:
            owner.append(5)
            await owner.until_stored(7)
            owner.bus.forget(owner.run_id)
            owner.bus.publish(owner.run_id, [event(9), event(10)])
            assert await self.read(owner) == [1, 2, 3, 4, 5, 6, 7]

    async def test_of_a_run_that_is_over_only_the_database_counts(self):
        async with Owner() as owner:
            owner.append(1)
            await owner.close()
            owner.bus.publish(owner.run_id, [end(5)])
            assert await self.read(owner, is_over=True) == [1, 2, 3, 4]
            owner.bus.forget(owner.run_id)
            owner.bus.publish(owner.run_id, [event(5)])
            assert await self.read(owner) == [1, 2, 3, 4]

    async def read(self, owner: Owner, after: int = 0, **options: bool) -> list[int]:
        found = await owner.journal.read_now(owner.run_id, after, **options)
        return [event.number for event in found]
