"""Stop ends the run, closes the provider, and loses nothing (C5, G6, F10)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conversations.models import ChatSession, Message, Run, UsageLog
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import (
    Provider,
    Step,
    hang,
    head,
    openai_answer,
    openai_chunk,
    send,
)


def start_and_wait_for_chunks(ada: Person, provider: Provider, count: int = 3):
    """A run whose provider hangs after `count` chunks, all of which a reader has seen."""
    chunks = [send(openai_chunk(f"word{index} ")) for index in range(count)]
    provider.reply(head(), *chunks, hang())
    run = ada.ask(ada.new_chat(), "hello")
    seen = ""
    with ada.follow(run["events_url"]) as events:
        for event in events:
            seen += event.data["content"] if event.type == "chunk" else ""
            if seen == "".join(f"word{index} " for index in range(count)):
                break
    return run, seen


@pytest.mark.contract("C5")
def test_a_stop_after_the_first_chunk_keeps_the_partial_answer_and_closes_the_provider(
    ada: Person, openai: Configuration, provider: Provider
):
    run, seen = start_and_wait_for_chunks(ada, provider)
    asked_at = time.monotonic()
    stopped = ada.stop(run)
    assert provider.wait_for_request().wait_for_close() - asked_at < 1
    receipt = stopped.pop("receipt")
    assert stopped == {"stopped": True, "user_message_deleted": False, "user_prompt": "hello"}
    events = ada.events(run)
    done = events[-1].data
    assert done["type"] == "done"
    assert done["stopped"] is True
    assert done["finish_reason"] == "stopped"
    assert done["full_response"] == text_of(events) == seen
    assert done["metrics"]["estimated"] is True
    assert done["metrics"]["completion_tokens"] > 0
    assert done["receipt"] == receipt
    assert (receipt["stopped_by"], receipt["after_event"]) == ("ada", events[-2].number)
    assert 0 <= receipt["provider_closed_in"] < 1
    answer = Message.objects.get(pk=done["assistant_message_id"])
    assert (answer.content, answer.status) == (seen, "stopped")
    assert UsageLog.objects.get().status == "stopped"


@pytest.mark.contract("C5")
@pytest.mark.parametrize("steps", [[hang()], [head(), hang()], [head(), send(": x\n\n"), hang()]])
def test_a_stop_before_the_first_chunk_takes_the_question_back(
    ada: Person, openai: Configuration, provider: Provider, steps: list[Step]
):
    provider.reply(*steps)
    chat = ada.new_chat()
    run = ada.ask(chat, "give this back")
    request = provider.wait_for_request()
    asked_at = time.monotonic()
    stopped = ada.stop(run)
    assert request.wait_for_close() - asked_at < 1
    assert stopped.pop("receipt")["after_event"] == 2
    assert stopped == {
        "stopped": True,
        "user_message_deleted": True,
        "user_prompt": "give this back",
    }
    assert not Message.objects.exists()
    assert ChatSession.objects.get(pk=chat).title == ""
    done = ada.events(run)[-1].data
    assert (done["stopped"], done["assistant_message_id"]) == (True, None)
    usage = UsageLog.objects.get()
    assert (usage.status, usage.completion_tokens) == ("stopped", 0)


@pytest.mark.contract("C5")
def test_reasoning_alone_is_no_answer_to_keep(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk(reasoning="thinking")), hang())
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "reasoning")
    assert ada.stop(run)["user_message_deleted"] is True
    assert not Message.objects.exists()


@pytest.mark.contract("C5")
def test_a_stop_while_waiting_to_try_again_makes_no_further_request(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(429, "application/json", {"Retry-After": "30"}), send("{}"))
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "retry")
    assert ada.stop(run)["stopped"] is True
    assert len(provider.requests) == 1


def test_of_many_stops_at_once_one_stops_and_the_run_has_one_end(
    ada: Person, openai: Configuration, provider: Provider
):
    run, _ = start_and_wait_for_chunks(ada, provider)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ada.stop(run), range(8)))
    assert all(answer["user_message_deleted"] is False for answer in answers)
    assert [answer["stopped"] for answer in answers].count(True) == 1
    receipt = answers[0]["receipt"]
    assert receipt is not None
    assert all(answer["receipt"] == receipt for answer in answers)
    events = ada.events(run)
    assert [event.type for event in events if event.type in ("done", "error")] == ["done"]
    assert UsageLog.objects.count() == 1


def test_a_stop_of_a_finished_run_says_that_it_stopped_nothing(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("done already"))
    run = ada.ask(ada.new_chat(), "hello")
    assert ada.events(run)[-1].data["stopped"] is False
    assert ada.stop(run)["stopped"] is False
    assert ada.stop(run)["user_message_deleted"] is False
    assert ada.stop(run)["receipt"] is None
    assert Run.objects.get().status == "done"


def test_every_reader_sees_the_end_that_another_tab_caused(
    ada: Person, openai: Configuration, provider: Provider
):
    run, seen = start_and_wait_for_chunks(ada, provider)
    is_following = threading.Barrier(4)

    def read() -> str:
        with ada.follow(run["events_url"]) as events:
            received = [next(events)]
            is_following.wait(10)
            received += list(events)
        assert received[-1].data["stopped"] is True
        return text_of(received)

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        is_following.wait(10)
        ada.stop(run)
        assert [reader.result() for reader in readers] == [seen] * 3


def test_a_session_can_be_stopped_without_knowing_the_run(
    ada: Person, openai: Configuration, provider: Provider
):
    run, _ = start_and_wait_for_chunks(ada, provider)
    chat = ChatSession.objects.get()
    assert ada.post(f"/chat/{chat.pk}/stop/").json()["stopped"] is True
    assert Run.objects.get(pk=run["run_id"]).status == "stopped"


def test_deleting_a_session_that_streams_closes_the_provider_and_keeps_the_usage(
    ada: Person, openai: Configuration, provider: Provider
):
    run, _ = start_and_wait_for_chunks(ada, provider)
    chat = ChatSession.objects.get()
    assert ada.post(f"/chat/{chat.pk}/delete/").status_code == 204
    provider.wait_for_request().wait_for_close()
    assert not ChatSession.objects.exists()
    assert not Run.objects.exists()
    usage = UsageLog.objects.get()
    assert (str(usage.pk), str(usage.session_id)) == (run["run_id"], str(chat.pk))
    assert usage.status == "stopped"


def test_a_stopped_answer_is_context_of_the_next_question(
    ada: Person, openai: Configuration, provider: Provider
):
    run, seen = start_and_wait_for_chunks(ada, provider)
    ada.stop(run)
    provider.reply(*openai_answer("ok"))
    chat = ChatSession.objects.get()
    ada.events(ada.ask(str(chat.pk), "go on"))
    contents = [message["content"] for message in provider.wait_for_request(2).json["messages"]]
    assert contents == ["hello", seen, "go on"]
