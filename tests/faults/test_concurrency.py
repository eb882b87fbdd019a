"""What happens at the same time in one session. Each pair has one defined outcome, and none of
them is a 500 or a wait without end (C9, R6)."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from conversations.models import ChatSession, Message, Run, UsageLog
from providers.models import Configuration
from tests.faults.checks import wait_for_ends, wait_until, watch
from tests.people import Person, text_of
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

pytestmark = pytest.mark.usefixtures("invariants")

ROUNDS = 12  # of each race


def at_once(*calls: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """Calls all of them in the same moment; their answers, none of which is a server's error."""
    everyone = threading.Barrier(len(calls))

    def call(function: Callable[[], httpx.Response]) -> httpx.Response:
        everyone.wait(10)
        return function()

    with ThreadPoolExecutor(len(calls)) as threads:
        answers = list(threads.map(call, calls))
    assert all(answer.status_code < 500 for answer in answers), [a.text for a in answers]
    return answers


def codes(answers: list[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


BUSY = (409, "RUN_IN_PROGRESS")


@pytest.fixture
def chat(ada: Person) -> str:
    return ada.new_chat()


@pytest.fixture
def streaming(ada: Person, openai: Configuration, provider: Provider, chat: str) -> dict[str, Any]:
    """A run that has begun to answer and will not end by itself."""
    provider.reply(head(), send(openai_chunk("begun")), hang())
    run = ada.ask(chat, "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "chunk")
    return run


@pytest.fixture
def answered(ada: Person, openai: Configuration, provider: Provider, chat: str) -> Message:
    """The answer of a turn that is over."""
    provider.reply(*openai_answer("an answer"))
    watch(ada, chat=chat)
    return Message.objects.get(role="assistant")


@pytest.fixture
def cut(ada: Person, openai: Configuration, provider: Provider, chat: str) -> Message:
    """An answer that was cut off, and can be continued."""
    provider.reply(head(), send(openai_chunk("half ")))
    watch(ada, chat=chat)
    return Message.objects.get(role="assistant")


# ---- Two runs in one session


@pytest.mark.contract("C9")
def test_of_sends_at_once_one_starts_and_the_others_are_told_why_not(
    ada: Person, openai: Configuration, provider: Provider, chat: str
):
    provider.route(head(), hang(), model="double-1")
    answers = at_once(*[lambda n=n: ada.send(chat, f"message {n}") for n in range(6)])
    assert sorted(codes(answers)) == [201, 409, 409, 409, 409, 409]
    assert {refusal(answer) for answer in answers if answer.status_code == 409} == {BUSY}
    assert Message.objects.count() == 1
    assert ada.post(f"/chat/{chat}/stop/").json()["stopped"] is True
    assert len(provider.requests) == 1


@pytest.mark.contract("C9")
def test_while_an_answer_is_written_nothing_else_starts_in_its_session(
    ada: Person, streaming: dict[str, Any], chat: str
):
    question = streaming["user_message_id"]
    assert refusal(ada.send(chat, "another")) == BUSY
    assert refusal(ada.post(f"/messages/{question}/retry/")) == BUSY
    assert refusal(ada.post(f"/messages/{question}/delete/")) == BUSY
    assert Message.objects.count() == 1
    assert ada.stop(streaming)["stopped"] is True


@pytest.mark.contract("C9")
def test_while_an_answer_is_written_an_earlier_one_is_neither_continued_nor_deleted(
    ada: Person, provider: Provider, cut: Message, chat: str
):
    provider.reply(head(), send(openai_chunk("begun")), hang())
    run = ada.ask(chat, "another")
    assert refusal(ada.post(f"/messages/{cut.pk}/continue/")) == BUSY
    assert refusal(ada.post(f"/messages/{cut.pk}/delete/")) == BUSY
    ada.stop(run)
    cut.refresh_from_db()
    assert cut.content == "half "


@pytest.mark.contract("C9")
def test_of_retries_at_once_one_starts(
    ada: Person, provider: Provider, answered: Message, chat: str
):
    provider.route(*openai_answer("another answer", pause=0.2), model="double-1")
    retry = f"/messages/{answered.parent_id}/retry/"
    answers = at_once(*[lambda: ada.post(retry)] * 4)
    assert sorted(codes(answers)) == [201, 409, 409, 409]
    wait_for_ends()
    assert Message.objects.filter(role="assistant").count() == 2
    assert len(provider.requests) == 2


@pytest.mark.contract("C9")
def test_of_continuations_at_once_one_starts_and_the_answer_is_continued_once(
    ada: Person, provider: Provider, cut: Message
):
    provider.route(*openai_answer("an answer", pause=0.2), model="double-1")
    answers = at_once(*[lambda: ada.post(f"/messages/{cut.pk}/continue/")] * 4)
    assert sorted(codes(answers)) == [201, 409, 409, 409]
    wait_for_ends()
    cut.refresh_from_db()
    assert (cut.content, cut.status) == ("half an answer", "complete")
    assert Message.objects.filter(role="assistant").count() == 1
    assert len(provider.requests) == 2


@pytest.mark.contract("C9")
def test_of_a_continuation_a_retry_and_a_send_at_once_one_starts(
    ada: Person, provider: Provider, cut: Message, chat: str
):
    provider.route(*openai_answer("an answer", pause=0.2), model="double-1")
    answers = at_once(
        lambda: ada.post(f"/messages/{cut.pk}/continue/"),
        lambda: ada.post(f"/messages/{cut.parent_id}/retry/"),
        lambda: ada.send(chat, "something else"),
    )
    assert sorted(codes(answers)) == [201, 409, 409]
    wait_for_ends()
    assert len(provider.requests) == 2


# ---- Deleting


@pytest.mark.contract("C10")
def test_a_session_that_streams_is_deleted_when_its_provider_is_closed_and_its_viewers_told(
    ada: Person, provider: Provider, streaming: dict[str, Any], chat: str
):
    viewers = [Viewer(lambda: ada, streaming) for _ in range(3)]
    for viewer in viewers:
        viewer.wait_for(lambda viewer: viewer.text == "begun")
    assert ada.post(f"/chat/{chat}/delete/").status_code == 204
    provider.wait_for_request().wait_for_close(1)
    for viewer in viewers:
        assert viewer.wait_for_end()[-1].data["stopped"] is True
        assert text_of(viewer.events) == "begun"
        viewer.leave()
    assert not ChatSession.objects.exists()
    assert not Run.objects.exists()
    usage = UsageLog.objects.get()
    assert (str(usage.pk), str(usage.session_id)) == (streaming["run_id"], chat)
    assert (usage.status, usage.username) == ("stopped", "ada")
    assert usage.completion_tokens
    assert ada.get(streaming["events_url"]).status_code == 404
    assert ada.post(streaming["stop_url"]).status_code == 404


@pytest.mark.contract("C10")
def test_a_session_is_deleted_and_stopped_at_once(
    ada: Person, openai: Configuration, provider: Provider
):
    for _ in range(ROUNDS):
        chat = ada.new_chat()
        provider.reply(head(), send(openai_chunk("begun")), hang())
        run = ada.ask(chat, "hello")
        answers = at_once(
            partial(ada.post, f"/chat/{chat}/delete/"),
            partial(ada.post, run["stop_url"]),
            partial(ada.post, f"/chat/{chat}/delete/"),
        )
        deleted, stopped, also_deleted = codes(answers)
        assert {deleted, also_deleted} <= {204, 404}
        assert 204 in (deleted, also_deleted)
        assert stopped in (200, 404)
        assert not ChatSession.objects.filter(pk=chat).exists()
    assert UsageLog.objects.filter(status="stopped").count() == ROUNDS


@pytest.mark.contract("C10")
def test_a_send_to_a_session_that_is_being_deleted_comes_first_or_too_late(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(head(), hang(), model="double-1")
    started = 0
    for number in range(ROUNDS):
        chat = ada.new_chat()
        answers = at_once(
            partial(ada.post, f"/chat/{chat}/delete/"),
            *[partial(ada.send, chat, f"message {n}") for n in range(1 + number % 3)],
        )
        deleted, *sent = answers
        assert deleted.status_code == 204
        assert set(codes(sent)) <= {201, 404, 409}
        assert codes(sent).count(201) <= 1
        started += codes(sent).count(201)
        assert not ChatSession.objects.filter(pk=chat).exists()
    # Each run that started was stopped with its session, and is accounted for.
    assert not Message.objects.exists()
    assert UsageLog.objects.count() == started
    wait_until(lambda: provider.busy == 0, "the provider has nothing to do")


@pytest.mark.contract("C10")
def test_a_message_is_deleted_while_its_question_is_asked_again_before_or_not_at_all(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("an answer"), model="double-1")
    for _ in range(ROUNDS):
        watched = watch(ada)
        question = watched.run["user_message_id"]
        deleted, retried = codes(
            at_once(
                partial(ada.post, f"/messages/{question}/delete/"),
                partial(ada.post, f"/messages/{question}/retry/"),
            )
        )
        assert (deleted, retried) in [(204, 404), (409, 201), (204, 201)]
        wait_for_ends()
        if deleted == 409:
            assert Message.objects.filter(pk=question).exists()
        else:
            assert not Message.objects.filter(pk=question).exists()


# ---- Ending and starting


@pytest.mark.contract("C9")
def test_a_send_in_the_moment_when_the_last_answer_ends_starts_or_is_told_to_wait(
    ada: Person, openai: Configuration, provider: Provider, chat: str
):
    """A retry of what was refused then works, and no message is lost or doubled."""
    for number in range(ROUNDS):
        gate = threading.Event()
        provider.reply(head(), send(openai_chunk("x")), until(gate), *openai_answer("y")[1:])
        first = ada.ask(chat, f"first {number}")
        gate.set()
        provider.reply(*openai_answer("next"))
        answer = ada.send(chat, f"second {number}", idempotency_key=f"key {number}")
        if answer.status_code == 409:
            assert refusal(answer) == BUSY
            ada.events(first)
            answer = ada.send(chat, f"second {number}", idempotency_key=f"key {number}")
        assert answer.status_code == 201
        assert ada.events(answer.json())[-1].data["full_response"] == "next"
    questions = Message.objects.filter(role="user").order_by("pk").values_list("content", flat=True)
    assert list(questions) == [
        f"{which} {n}" for n in range(ROUNDS) for which in ("first", "second")
    ]
    assert len(provider.requests) == 2 * ROUNDS
