"""F10: Stop, from anywhere and at any moment. It ends the run once, and is true when it says so."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from conversations.models import ChatSession, Message, Run, UsageLog
from providers.models import Configuration
from tests.faults import stored
from tests.people import Person, Received, text_of
from tests.servers.app import AppServer
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    hang,
    head,
    openai_answer,
    openai_chunk,
    openai_usage,
    send,
    until,
    wait,
)
from tests.servers.redis import RedisServer
from tests.servers.sites import ADMIN, PASSWORD, Site, two_processes, uvicorn
from tests.servers.viewers import Viewer

in_process = pytest.mark.usefixtures("invariants")

LIMIT = 1.0  # s from the stop until the provider sees the close (C5)
DRIPS = [step for _ in range(2_000) for step in (send(openai_chunk("x ")), wait(0.005))]


def check_receipt(receipt: dict[str, Any], by: str | None, end: Received) -> None:
    """What the stop's answer and the end event say of a stop that happened just now."""
    assert end.data["receipt"] == receipt
    assert receipt["stopped_by"] == by
    assert receipt["after_event"] == end.number - 1
    assert 0 <= receipt["provider_closed_in"] < LIMIT
    age = datetime.now(UTC) - datetime.fromisoformat(receipt["stopped_at"])
    assert 0 <= age.total_seconds() < 30


@pytest.mark.contract("F10")
@pytest.mark.contract("C5")
@in_process
@pytest.mark.parametrize(
    "steps",
    [
        [hang()],
        [head(), hang()],
        [head(), send(": ping\n\n"), hang()],
        [head(), send(openai_chunk(reasoning="Hm")), hang()],
    ],
    ids=["before the headers", "before any byte", "after a ping", "after reasoning"],
)
def test_a_stop_before_the_first_chunk_closes_the_provider_and_takes_the_question_back(
    ada: Person, openai: Configuration, provider: Provider, steps: list[Step]
):
    provider.reply(*steps)
    chat = ada.new_chat()
    run = ada.ask(chat, "give this back")
    request = provider.wait_for_request()
    asked_at = time.monotonic()
    told = ada.stop(run)
    answered_at = time.monotonic()
    closed_at = request.wait_for_close()
    assert closed_at - asked_at < LIMIT
    # When the answer says "stopped", the connection is closed; the double needs a moment to see it.
    assert closed_at - answered_at < 0.2
    receipt = told.pop("receipt")
    assert told == {"stopped": True, "user_message_deleted": True, "user_prompt": "give this back"}
    assert not Message.objects.exists()
    assert ChatSession.objects.get(pk=chat).title == ""
    events = ada.events(run)
    assert (events[-1].data["stopped"], events[-1].data["assistant_message_id"]) == (True, None)
    check_receipt(receipt, "ada", events[-1])
    usage = UsageLog.objects.get()
    assert usage.status == "stopped"
    assert usage.prompt_tokens


@pytest.mark.contract("F10")
@pytest.mark.contract("C5")
@in_process
def test_a_stop_from_another_tab_ends_the_answer_in_all_tabs_with_no_text_after_it(
    ada: Person, app: AppServer, openai: Configuration, provider: Provider
):
    provider.reply(head(), *DRIPS)
    run = ada.ask(ada.new_chat(), "hello")
    viewers = [Viewer(lambda: ada, run) for _ in range(3)]
    for viewer in viewers:
        viewer.wait_for(lambda viewer: len(viewer.text) > 20)
    with ada.at(app.url) as other_tab:
        asked_at = time.monotonic()
        told = other_tab.stop(run)
        answered_at = time.monotonic()
    assert told["stopped"] is True
    assert told["user_message_deleted"] is False
    closed_at = provider.wait_for_request().wait_for_close()
    assert closed_at - asked_at < LIMIT
    # The receipt's own measure lies within what can be seen from outside.
    assert told["receipt"]["provider_closed_in"] <= answered_at - asked_at
    ends = [viewer.wait_for_end() for viewer in viewers]
    assert ends[0] == ends[1] == ends[2] == ada.events(run)
    check_receipt(told["receipt"], "ada", ends[0][-1])
    assert ends[0][-1].data["full_response"] == text_of(ends[0])
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == (text_of(ends[0]), "stopped")
    for viewer in viewers:
        viewer.leave()


@pytest.mark.contract("F10")
@in_process
@pytest.mark.parametrize("steps", [[hang()], [head(), *DRIPS]], ids=["no chunk", "chunks"])
def test_of_many_stops_at_once_one_stops_and_the_others_say_that_they_did_not(
    ada: Person, openai: Configuration, provider: Provider, steps: list[Step]
):
    provider.reply(*steps)
    run = ada.ask(ada.new_chat(), "hello")
    provider.wait_for_request()
    if steps != [hang()]:
        with ada.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
    everyone = threading.Barrier(8)

    def stop() -> dict[str, Any]:
        everyone.wait(10)
        return ada.stop(run)

    with ThreadPoolExecutor(8) as threads:
        answers = [future.result() for future in [threads.submit(stop) for _ in range(8)]]
    assert sorted(answer["stopped"] for answer in answers) == [False] * 7 + [True]
    end = ada.events(run)[-1]
    for answer in answers:
        assert answer["receipt"] == end.data["receipt"]
    assert UsageLog.objects.get().status == "stopped"
    assert len(provider.requests) == 1


@pytest.mark.contract("F10")
@in_process
def test_a_stop_of_a_finished_run_says_that_it_stopped_nothing(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("done already"))
    run = ada.ask(ada.new_chat(), "hello")
    end = ada.events(run)[-1].data
    assert (end["stopped"], "receipt" in end) == (False, False)
    for _ in range(2):
        told = ada.stop(run)
        assert (told["stopped"], told["user_message_deleted"]) == (False, False)
        assert told["receipt"] is None
    assert Run.objects.get().status == "done"
    assert ada.events(run)[-1].data == end


@pytest.mark.contract("F10")
@in_process
def test_a_stop_while_the_run_waits_to_try_again_makes_no_further_request(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(429, "application/json", {"Retry-After": "30"}), send("{}"))
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "retry")
    asked_at = time.monotonic()
    assert ada.stop(run)["stopped"] is True
    assert time.monotonic() - asked_at < LIMIT
    assert len(provider.requests) == 1


def stop_at_the_gate(ada: Person, run: dict[str, Any], gate: threading.Event) -> dict[str, Any]:
    gate.set()
    return ada.stop(run)


def stop_at_the_last(ada: Person, run: dict[str, Any], gate: threading.Event) -> dict[str, Any]:
    with ada.follow(run["events_url"]) as events:
        gate.set()
        for event in events:
            if event.type == "chunk" and event.data["content"].endswith("last"):
                break
        return ada.stop(run)


@pytest.mark.contract("F10")
@in_process
def test_a_stop_at_the_very_end_either_comes_first_or_too_late(
    ada: Person, openai: Configuration, provider: Provider
):
    """A race, in 30 ways; each has one of two outcomes, and everybody is told the same."""
    chance = Random(10)
    outcomes = []
    for _ in range(30):
        gate = threading.Event()
        # From the gate to the end: less than a stop needs to get there, about that, or more.
        pause = chance.choice([0, 0.001, 0.003, 0.006, 0.05])
        last: list[Step] = [wait(pause), send(openai_chunk("last")), wait(pause)]
        end = [send(openai_chunk(finish="stop")), send(openai_usage()), send(OPENAI_DONE)]
        provider.reply(head(), send(openai_chunk("first ")), until(gate), *last, *end)
        run = ada.ask(ada.new_chat(), "hello")
        with ada.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
        stop: Callable[..., dict[str, Any]] = chance.choice([stop_at_the_gate, stop_at_the_last])
        told = stop(ada, run, gate)
        received = ada.events(run)
        done = received[-1].data
        assert done["stopped"] is told["stopped"]
        assert (done["finish_reason"] == "stopped") is told["stopped"]
        assert done["full_response"] == text_of(received)
        assert done["full_response"] in ("first ", "first last")
        if told["stopped"]:
            check_receipt(told["receipt"], "ada", received[-1])
        else:
            assert (told["receipt"], done["full_response"]) == (None, "first last")
        outcomes.append(told["stopped"])
    assert len(provider.requests) == 30
    assert set(outcomes) == {True, False}  # or this would not be the very end


@pytest.mark.contract("F10")
@pytest.mark.contract("D3")
@pytest.mark.parametrize(
    "has_redis", [True, False], ids=["with a word", "by the stored mark alone"]
)
def test_a_stop_at_the_other_process_closes_the_provider(
    shared_site: Site, provider: Provider, redis: RedisServer, has_redis: bool
):
    # The mark is looked for with each write, of which there is one while text comes.
    provider.reply(head(), *([send(openai_chunk("x ")), hang()] if has_redis else DRIPS))
    with two_processes(shared_site) as (here, there):
        run = here.ask(here.new_chat(), "hello")
        with there.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
        if not has_redis:
            redis.stop()
        asked_at = time.monotonic()
        told = there.stop(run)
        assert told["stopped"] is True
        assert provider.wait_for_request().wait_for_close() - asked_at < LIMIT
        assert there.stop(run)["stopped"] is False
        end = here.events(run)[-1]
        check_receipt(told["receipt"], ADMIN, end)
        assert end.data["stopped"] is True
        assert end.data["full_response"].startswith("x ")
        assert stored.faults(shared_site, here) == []
    assert len(provider.requests) == 1


@pytest.mark.contract("F10")
@pytest.mark.contract("D3")
@pytest.mark.timeout(120)
def test_a_stop_whose_owner_is_out_of_reach_is_503_and_obeyed_when_it_is_back(
    shared_site: Site, provider: Provider, redis: RedisServer
):
    # It keeps its run while it is out of reach, and looks for marks every third of this.
    site = {**shared_site, "LEASE_DURATION": "15"}
    provider.reply(head(), send(openai_chunk("kept")), hang())
    with (
        uvicorn(site) as (owner, first),
        uvicorn(site) as (_, second),
        Person(first, ADMIN, PASSWORD) as here,
        here.at(second) as there,
    ):
        run = here.ask(here.new_chat(), "hello")
        with there.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
        owner.send_signal(signal.SIGSTOP)
        try:
            redis.stop()  # with the word to stop in it: what is left is the stored mark
            refused = there.post(run["stop_url"])
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.json()["error"]["code"] == "RUN_OUT_OF_REACH"
            assert provider.wait_for_request().closed_at is None
            assert stored.runs(site)[0].status == "running"
        finally:
            owner.send_signal(signal.SIGCONT)
        back_at = time.monotonic()
        assert provider.wait_for_request().wait_for_close() - back_at < 2
        received = there.events(run)
        assert received[-1].data["stopped"] is True
        assert received[-1].data["receipt"]["stopped_by"] == ADMIN
        assert text_of(received) == "kept"
        assert there.stop(run)["stopped"] is False
        assert stored.faults(site, there) == []
    assert len(provider.requests) == 1
