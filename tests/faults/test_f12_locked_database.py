"""F12: another process locks SQLite. Shortly it is a pause; for long, sends are refused and runs
end, and all is well again when the lock is gone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import httpx
import pytest

from conversations.journal import VISIBLE_UNSTORED
from conversations.models import ChatSession, Message, Run
from providers.models import Configuration
from tests.conftest import PASSWORD
from tests.faults.checks import page_of, watch
from tests.faults.storage import Lock, impatience
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

# Only SQLite locks the whole database.
pytestmark = [pytest.mark.sqlite, pytest.mark.usefixtures("invariants")]

STORE_INTERVAL = 0.1  # s, by default


@pytest.mark.contract("F12")
@pytest.mark.contract("G3")
def test_a_lock_of_three_seconds_is_a_pause(
    ada: Person, openai: Configuration, demo: Configuration, provider: Provider
):
    go_on = threading.Event()
    pieces = [f"{index} " for index in range(100)]
    provider.reply(
        head(),
        send(openai_chunk("first ")),
        until(go_on),
        *openai_answer(*pieces, pause=0.02)[1:],
    )
    chats = [ada.new_chat(), ada.new_chat()]
    run = ada.ask(chats[0], "hello", configuration_id="double")
    viewer = Viewer(lambda: ada, run)
    viewer.wait_for(lambda viewer: viewer.text != "")
    with Lock(3) as lock, ThreadPoolExecutor(1) as threads:
        go_on.set()
        sending = threads.submit(ada.send, chats[1], "/demo echo hi", configuration_id="demo")
        asked_at = monotonic()
        assert "hello" in page_of(ada, chats[0])  # nobody waits to read
        assert monotonic() - asked_at < 1
        released_at = lock.wait_for_release()
        sent = sending.result()
    assert released_at - lock.held_from >= 3
    assert sent.status_code == 201
    events = viewer.wait_for_end()
    assert text_of(events) == events[-1].data["full_response"] == "first " + "".join(pieces)
    assert ada.events(sent.json())[-1].data["full_response"] == "hi"
    # Shown is stored: while nothing was, the viewer saw what was on its way, and then no more.
    shown = [at for at, event in viewer.shown if event.type == "chunk"]
    pause_from = lock.held_from + STORE_INTERVAL + VISIBLE_UNSTORED + 0.25
    assert not [at for at in shown if pause_from < at < released_at]
    assert len([at for at in shown if at > released_at]) > 50
    viewer.leave()


@pytest.mark.contract("F12")
@pytest.mark.contract("S12")
def test_while_the_lock_lasts_what_would_write_is_503_and_what_reads_is_answered(
    app: AppServer,
    ada: Person,
    openai: Configuration,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
):
    provider.route(*openai_answer("as before"), model="double-1")
    chat = watch(ada).chat
    before = stored()
    with impatience(app, monkeypatch), Lock() as lock:
        refused = [
            ada.send(chat, "and now?", idempotency_key="k"),
            ada.post("/chat/"),
            ada.post(f"/chat/{chat}/rename/", json={"title": "other"}),
            ada.post(f"/chat/{chat}/delete/"),
            ada.post(f"/messages/{Message.objects.get(role='user').pk}/retry/"),
        ]
        for answer in refused:
            assert answer.status_code == 503, (answer.url, answer.text)
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["error"]["code"] == "STORAGE_UNAVAILABLE"
            assert "locked" not in answer.text
        assert sign_in(app.url) == 503
        assert "as before" in page_of(ada, chat)
        assert ada.get("/healthz").status_code == 200
        lock.release()
        lock.wait_for_release()
        assert stored() == before
        again = ada.send(chat, "and now?", idempotency_key="k")
        assert again.status_code == 201
        assert ada.events(again.json())[-1].data["full_response"] == "as before"
    assert sign_in(app.url) == 302


def sign_in(url: str) -> int:
    """What Ada is answered when she signs in with another browser."""
    with httpx.Client(base_url=url, trust_env=False) as browser:
        browser.get("/accounts/login/")
        fields = {"username": "ada", "password": PASSWORD}
        token = {"X-CSRFToken": browser.cookies["csrftoken"], "Accept": "text/html"}
        return browser.post("/accounts/login/", data=fields, headers=token).status_code


@pytest.mark.contract("F12")
def test_a_run_during_a_lock_without_end_is_ended_its_provider_closed_and_its_text_kept(
    app: AppServer,
    ada: Person,
    openai: Configuration,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
):
    go_on = threading.Event()
    provider.reply(
        head(), send(openai_chunk("kept ")), until(go_on), send(openai_chunk("too")), hang()
    )
    chat = ada.new_chat()
    run = ada.ask(chat, "hello")
    viewer = Viewer(lambda: ada, run)
    viewer.wait_for(lambda viewer: viewer.text == "kept ")
    with impatience(app, monkeypatch), Lock() as lock:
        go_on.set()
        provider.wait_for_request().wait_for_close()
        assert Run.objects.get().is_running  # as far as can be stored
        assert not viewer.has_end
        lock.release()
        lock.wait_for_release()
        events = viewer.wait_for_end()
    error = events[-1].data
    assert (error["code"], error["recoverable"]) == ("INTERNAL_ERROR", True)
    assert text_of(events) == "kept too"
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == ("kept too", "failed")
    assert "kept too" in page_of(ada, chat)
    viewer.leave()
    provider.reply(*openai_answer("works again"))
    assert watch(ada).end["full_response"] == "works again"
    assert len(provider.requests) == 2


@pytest.mark.contract("F12")
@pytest.mark.contract("C5")
def test_a_stop_during_a_lock_closes_the_provider_and_says_that_the_rest_takes_time(
    app: AppServer,
    ada: Person,
    openai: Configuration,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("conversations.engine.STOP_PATIENCE", 0.5)
    provider.reply(head(), send(openai_chunk("kept")), hang())
    run = ada.ask(ada.new_chat(), "hello")
    viewer = Viewer(lambda: ada, run)
    viewer.wait_for(lambda viewer: viewer.text == "kept")
    with Lock() as lock:
        asked_at = monotonic()
        answer = ada.post(run["stop_url"])
        assert provider.wait_for_request().wait_for_close() - asked_at < 1
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        lock.release()
        lock.wait_for_release()
    assert viewer.wait_for_end()[-1].data["stopped"] is True
    told = ada.stop(run)
    assert (told["stopped"], told["receipt"]["stopped_by"]) == (False, "ada")
    viewer.leave()


def stored() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (ChatSession, Message, Run)]
