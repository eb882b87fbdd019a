"""Storage that is slow, locked or full: nothing half stored, and all is well when it is (G8)."""

import sqlite3
import threading
from typing import Any

import pytest
from django.db import OperationalError, connection

from conversations import journal, runs
from conversations.models import Message, Run
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send, until


@pytest.mark.contract("F12")
def test_a_database_that_is_locked_for_a_while_is_a_pause_and_nothing_is_lost(
    ada: Person, openai: Configuration, provider: Provider
):
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite locks the whole database")
    go_on, has_sent = threading.Event(), threading.Event()
    chunks = [send(openai_chunk(f"{index} ")) for index in range(20)]
    provider.reply(
        head(), send(openai_chunk("first ")), until(go_on), *chunks, *openai_answer("last")[1:]
    )
    run = ada.ask(ada.new_chat(), "hello")
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    with ada.follow(run["events_url"]) as events:
        received = [next(events) for _ in range(3)]
        other.execute("BEGIN IMMEDIATE")
        go_on.set()
        threading.Timer(1.0, has_sent.set).start()
        has_sent.wait()
        other.execute("ROLLBACK")
        received += list(events)
    other.close()
    assert text_of(received) == "first " + "".join(f"{index} " for index in range(20)) + "last"
    assert received[-1].data["full_response"] == text_of(received)
    assert [event.number for event in received] == list(range(1, len(received) + 1))


@pytest.mark.contract("F12")
@pytest.mark.contract("F13")
def test_a_send_that_cannot_be_stored_is_503_and_leaves_nothing(
    ada: Person, openai: Configuration, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OperationalError("database or disk is full")

    chat = ada.new_chat()
    with monkeypatch.context() as broken:
        broken.setattr(runs, "plan", full)  # after the question was stored
        answer = ada.send(chat, "hello")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["error"]["code"] == "STORAGE_UNAVAILABLE"
    assert "disk" not in answer.text
    assert not Message.objects.exists()
    provider.reply(*openai_answer("works again"))
    assert text_of(ada.events(ada.ask(chat, "hello"))) == "works again"


@pytest.mark.contract("F13")
def test_a_run_whose_text_cannot_be_stored_ends_and_its_provider_is_closed(
    ada: Person, openai: Configuration, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    original = journal._store
    is_full = threading.Event()

    def store(*args: Any) -> Any:
        if is_full.is_set():
            raise OperationalError("database or disk is full")
        return original(*args)

    monkeypatch.setattr(journal, "_store", store)
    monkeypatch.setattr(journal, "STORAGE_PATIENCE", 0.3)
    monkeypatch.setattr(journal, "RETRY_STORE", 0.05)
    go_on = threading.Event()
    provider.reply(
        head(), send(openai_chunk("kept ")), until(go_on), send(openai_chunk("too")), hang()
    )
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        received = [next(events) for _ in range(3)]
        is_full.set()
        go_on.set()
        provider.wait_for_request().wait_for_close()
        assert Run.objects.get().is_running
        is_full.clear()
        received += list(events)
    error = received[-1].data
    assert (error["code"], error["recoverable"]) == ("INTERNAL_ERROR", True)
    assert text_of(received) == "kept too"
    assert Message.objects.get(role="assistant").content == "kept too"
