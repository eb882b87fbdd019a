"""F13: the disk is full. Nothing is half stored, pages open, and all is well when there is room."""

import threading
from typing import Any

import pytest

from conversations.models import ChatSession, EventBatch, Message, Run, UsageLog
from providers.models import Configuration
from tests.faults.checks import page_of, wait_until, watch
from tests.faults.storage import impatience, integrity, no_room
from tests.people import Person, text_of
from tests.servers.app import AppServer
from tests.servers.provider import (
    Provider,
    hang,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)
from tests.servers.viewers import Viewer

# Only SQLite can be given a small disk of its own.
pytestmark = [pytest.mark.sqlite, pytest.mark.usefixtures("invariants")]

LONG = "word " * 900  # more than a page of SQLite, so that it needs a new one


@pytest.mark.contract("F13")
@pytest.mark.contract("S12")
@pytest.mark.parametrize(
    ("prompt", "instructions"),
    [(LONG, ""), ("hello", LONG)],
    ids=["for the question", "for the run, after the question"],
)
def test_a_send_to_a_full_disk_is_503_and_stores_nothing_and_works_when_there_is_room(
    app: AppServer,
    ada: Person,
    openai: Configuration,
    provider: Provider,
    prompt: str,
    instructions: str,
):
    provider.route(*openai_answer("as before"), model="double-1")
    chat = watch(ada).chat
    empty = ada.new_chat()
    openai.system_instructions = instructions
    openai.save()
    before = stored()
    with no_room(app):
        for session in (chat, empty):
            answer = ada.send(session, prompt, idempotency_key="k")
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["error"]["code"] == "STORAGE_UNAVAILABLE"
            assert "full" not in answer.text
        assert stored() == before
        assert "as before" in page_of(ada, chat)
        assert integrity() == ["ok"]
    assert len(provider.requests) == 1
    again = ada.send(empty, prompt, idempotency_key="k")
    assert again.status_code == 201
    assert ada.events(again.json())[-1].data["full_response"] == "as before"
    assert integrity() == ["ok"]


@pytest.mark.contract("F13")
def test_a_run_that_fills_the_disk_ends_and_its_provider_is_closed_and_its_text_kept(
    app: AppServer,
    ada: Person,
    openai: Configuration,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
):
    go_on = threading.Event()
    provider.reply(
        head(), send(openai_chunk("kept ")), until(go_on), send(openai_chunk(LONG)), hang()
    )
    chat = ada.new_chat()
    viewer = Viewer(lambda: ada, ada.ask(chat, "hello"))
    viewer.wait_for(lambda viewer: viewer.text == "kept ")
    with impatience(app, monkeypatch), no_room(app):
        go_on.set()
        provider.wait_for_request().wait_for_close()
        assert "hello" in page_of(ada, chat)
        assert integrity() == ["ok"]
        assert not viewer.has_end
    events = viewer.wait_for_end()
    error = events[-1].data
    assert (error["code"], error["recoverable"]) == ("INTERNAL_ERROR", True)
    assert text_of(events) == "kept " + LONG
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == ("kept " + LONG, "failed")
    assert UsageLog.objects.get().code == "INTERNAL_ERROR"
    assert integrity() == ["ok"]
    viewer.leave()
    provider.reply(*openai_answer(LONG))
    assert watch(ada, chat=chat).end["full_response"] == LONG


@pytest.mark.contract("F13")
def test_a_disk_that_is_full_for_a_moment_is_a_pause(
    app: AppServer,
    ada: Person,
    openai: Configuration,
    provider: Provider,
    caplog: pytest.LogCaptureFixture,
):
    go_on = threading.Event()
    pieces = [LONG + str(index) for index in range(20)]
    provider.reply(
        head(), send(openai_chunk("first ")), until(go_on), *openai_answer(*pieces, pause=0.01)[1:]
    )
    viewer = Viewer(lambda: ada, ada.ask(ada.new_chat(), "hello"))
    viewer.wait_for(lambda viewer: viewer.text == "first ")
    with no_room(app):
        go_on.set()
        wait_until(lambda: "storing the events" in caplog.text, "storing has failed once")
        assert Run.objects.get().is_running
    events = viewer.wait_for_end()
    assert events[-1].data["full_response"] == text_of(events) == "first " + "".join(pieces)
    viewer.leave()


def stored() -> list[Any]:
    models = (ChatSession, Message, Run, EventBatch)
    return [list(model.objects.order_by("pk").values()) for model in models]
