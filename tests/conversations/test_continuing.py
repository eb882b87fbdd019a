"""Continue: an answer that was cut off goes on in the same message."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from conversations import runs
from conversations.models import Message, Run, UsageLog
from conversations.planning import CONTINUE, Asked
from conversations.runs import Owner
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import (
    Provider,
    Step,
    close,
    hang,
    head,
    ollama_answer,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    send,
    until,
)

BEGUN = "It was a dark and "


def cut_answer(ada: Person, provider: Provider, *steps: Step) -> tuple[dict[str, Any], Message]:
    """A run whose provider broke off after BEGUN, and the answer that is left of it."""
    provider.reply(head(), *(steps or [send(openai_chunk(BEGUN))]), close())
    run = ada.ask(ada.new_chat(), "tell me")
    assert ada.events(run)[-1].data["code"] == "STREAM_INTERRUPTED"
    return run, Message.objects.get(role="assistant")


def go_on(person: Person, answer: Message, **fields: Any) -> httpx.Response:
    return person.post(f"/messages/{answer.pk}/continue/", json=fields)


def test_the_rest_is_written_into_the_same_message(
    ada: Person, openai: Configuration, provider: Provider
):
    first, answer = cut_answer(ada, provider)
    provider.reply(*openai_answer("stormy ", "night.", usage=(30, 4)))
    started = go_on(ada, answer)
    assert started.status_code == 201
    run = started.json()
    assert run["user_message_id"] == first["user_message_id"]
    events = ada.events(run)
    done = events[-1].data
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[0].data["continues"] == {"message_id": answer.pk, "tokens": 5}
    assert events[0].data["user_prompt"] == "tell me"
    assert done["assistant_message_id"] == answer.pk
    assert done["full_response"] == text_of(events) == "It was a dark and stormy night."
    answer.refresh_from_db()
    assert (answer.content, answer.status) == ("It was a dark and stormy night.", "complete")
    assert Message.objects.count() == 2
    assert Message.objects.get(role="user").status == "complete"
    assert [usage.completion_tokens for usage in UsageLog.objects.order_by("started_at")] == [5, 4]
    # The first run's own events still say what they said.
    assert text_of(ada.events(first)) == BEGUN


def test_the_model_gets_what_there_is_and_is_told_to_go_on(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider)
    provider.reply(*openai_answer("stormy night."))
    run = go_on(ada, answer).json()
    sent = ada.events(run)[1].data["full_request_body"]
    assert provider.wait_for_request(2).json == sent
    assert sent["messages"] == [
        {"role": "user", "content": "tell me"},
        {"role": "assistant", "content": BEGUN},
        {"role": "user", "content": CONTINUE},
    ]


def test_a_server_that_goes_on_by_itself_is_told_nothing(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider)
    ollama = Configuration.objects.create(
        name="Local", slug="local", kind="ollama", model="m", base_url=provider.url
    )
    provider.reply(*ollama_answer("stormy night."))
    run = go_on(ada, answer, configuration_id=ollama.slug).json()
    assert text_of(ada.events(run)) == BEGUN + "stormy night."
    assert provider.wait_for_request(2).json["messages"][-1] == {
        "role": "assistant",
        "content": BEGUN,
    }


def test_reasoning_is_kept_and_goes_on_as_well(
    ada: Person, openai: Configuration, provider: Provider
):
    thought = send(openai_chunk(reasoning="Hm. "))
    _, answer = cut_answer(ada, provider, thought, send(openai_chunk(BEGUN)))
    provider.reply(*openai_answer("stormy night.", reasoning=["Aha."]))
    events = ada.events(go_on(ada, answer).json())
    reasoning = [event.data["content"] for event in events if event.type == "reasoning"]
    assert reasoning == ["Hm. ", "Aha."]
    answer.refresh_from_db()
    assert answer.reasoning == "Hm. Aha."
    assert answer.reasoning_seconds is not None


def test_only_the_new_text_is_counted_where_the_provider_counts_nothing(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider, send(openai_chunk("x" * 4_000)))
    provider.reply(*openai_answer("y" * 40, usage=None))
    events = ada.events(go_on(ada, answer).json())
    assert events[-1].data["metrics"]["completion_tokens"] == 10
    tokens = [event.data["tokens"] for event in events if event.type == "chunk"]
    assert tokens == [1_000, 1_010]


def test_an_answer_is_continued_as_often_as_it_is_cut(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider)
    for piece in ("stormy ", "night, "):
        provider.reply(head(), send(openai_chunk(piece)), close())
        assert ada.events(go_on(ada, answer).json())[-1].type == "error"
    provider.reply(*openai_answer("and late."))
    assert ada.events(go_on(ada, answer).json())[-1].type == "done"
    answer.refresh_from_db()
    assert answer.content == BEGUN + "stormy night, and late."
    assert Run.objects.filter(assistant_message=answer).count() == 4


def test_an_answer_that_was_stopped_can_be_continued_and_stopped_again(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk(BEGUN)), hang())
    run = ada.ask(ada.new_chat(), "tell me")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "chunk")
    ada.stop(run)
    answer = Message.objects.get(role="assistant")
    provider.reply(head(), hang())
    again = go_on(ada, answer).json()
    provider.wait_for_request(2)
    stopped = ada.stop(again)
    # Nothing new came, but there is an answer: it stays, and so does its question.
    assert (stopped["stopped"], stopped["user_message_deleted"]) == (True, False)
    answer.refresh_from_db()
    assert (answer.content, answer.status) == (BEGUN, "stopped")
    assert Message.objects.count() == 2


def test_an_answer_that_was_cut_at_the_limit_of_tokens_can_be_continued(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer(BEGUN, finish="length"))
    ada.events(ada.ask(ada.new_chat(), "tell me"))
    answer = Message.objects.get(role="assistant")
    provider.reply(*openai_answer("stormy night."))
    assert ada.events(go_on(ada, answer).json())[-1].data["finish_reason"] == "stop"
    assert go_on(ada, answer).json()["error"]["code"] == "ANSWER_COMPLETE"


def whole(ada: Person, provider: Provider) -> Message:
    provider.reply(*openai_answer("All is said."))
    ada.events(ada.ask(ada.new_chat(), "tell me"))
    return Message.objects.get(role="assistant")


def with_a_tool_call(ada: Person, provider: Provider) -> Message:
    return cut_answer(ada, provider, send(openai_chunk(BEGUN)), *openai_tool_call("look", "{"))[1]


def without_its_question(ada: Person, provider: Provider) -> Message:
    _, answer = cut_answer(ada, provider)
    assert answer.parent is not None
    assert ada.post(f"/messages/{answer.parent.pk}/delete/").status_code == 204
    return answer


@pytest.mark.parametrize("make", [whole, with_a_tool_call, without_its_question])
def test_what_cannot_be_continued_is_refused_and_stays_as_it_is(
    ada: Person,
    openai: Configuration,
    provider: Provider,
    make: Callable[[Person, Provider], Message],
):
    answer = make(ada, provider)
    before = (answer.content, answer.status, Run.objects.count())
    refused = go_on(ada, answer)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "ANSWER_COMPLETE"
    answer.refresh_from_db()
    assert (answer.content, answer.status, Run.objects.count()) == before
    assert len(provider.requests) == 1


def test_a_question_or_somebody_elses_answer_cannot_be_continued(
    ada: Person, openai: Configuration, provider: Provider, make_person: Callable[..., Person]
):
    _, answer = cut_answer(ada, provider)
    assert answer.parent is not None
    assert go_on(ada, answer.parent).status_code == 404
    assert go_on(make_person("bob"), answer).status_code == 404
    assert Run.objects.count() == 1


def test_of_many_wishes_to_continue_at_once_one_is_granted(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider)
    gate = threading.Event()
    provider.reply(head(), until(gate), *openai_answer("stormy night.")[1:])
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda _: go_on(ada, answer), range(6)))
    assert sorted(reply.status_code for reply in replies) == [201] + [409] * 5
    codes = {reply.json()["error"]["code"] for reply in replies if reply.status_code == 409}
    assert codes == {"RUN_IN_PROGRESS"}
    gate.set()
    run = next(reply.json() for reply in replies if reply.status_code == 201)
    assert text_of(ada.events(run)) == BEGUN + "stormy night."
    assert len(provider.requests) == 2


def test_a_repeated_key_gives_the_same_run_and_a_retry_needs_another_one(
    ada: Person, openai: Configuration, provider: Provider
):
    first, answer = cut_answer(ada, provider)
    provider.reply(*openai_answer("stormy night."))
    run = go_on(ada, answer, idempotency_key="k").json()
    ada.events(run)
    again = go_on(ada, answer, idempotency_key="k")
    assert (again.status_code, again.json()["run_id"]) == (200, run["run_id"])
    retry = ada.post(f"/messages/{first['user_message_id']}/retry/", json={"idempotency_key": "k"})
    assert retry.json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert len(provider.requests) == 2


def test_the_context_is_what_came_before_the_question(
    ada: Person, openai: Configuration, provider: Provider
):
    chat = ada.new_chat()
    provider.reply(*openai_answer("One."))
    ada.events(ada.ask(chat, "first"))
    provider.reply(head(), send(openai_chunk(BEGUN)), close())
    ada.events(ada.ask(chat, "second"))
    answer = Message.objects.filter(role="assistant").latest("pk")
    provider.reply(*openai_answer("stormy night."))
    events = ada.events(go_on(ada, answer).json())
    assert events[0].data["context_size"] == 2
    assert [m["content"] for m in events[1].data["full_request_body"]["messages"][:3]] == [
        "One." if role == "assistant" else word
        for role, word in (("user", "first"), ("assistant", ""), ("user", "second"))
    ]


def test_an_answer_cannot_grow_beyond_its_limit_by_being_continued(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.ANSWER_MAX_BYTES = 30
    _, answer = cut_answer(ada, provider)
    provider.reply(*openai_answer("stormy night, and so on."))
    done = ada.events(go_on(ada, answer).json())[-1].data
    assert done["finish_reason"] == "length"
    assert done["full_response"] == (BEGUN + "stormy night, and so on.")[:30]


def test_the_page_offers_to_continue_the_last_answer_and_shows_what_it_has_meanwhile(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider)
    chat = Run.objects.get().session_id
    button = f'hx-post="/messages/{answer.pk}/continue/"'
    assert button in ada.http.get(f"/chat/{chat}/").text
    gate = threading.Event()
    provider.reply(head(), until(gate), *openai_answer("stormy night.")[1:])
    entry = ada.post(f"/messages/{answer.pk}/continue/", headers={"HX-Request": "true"}).text
    assert 'data-status="running"' in entry
    assert BEGUN.strip() in entry
    page = ada.http.get(f"/chat/{chat}/").text
    assert page.count(BEGUN.strip()) == 1
    assert button not in page
    gate.set()
    ada.events({"events_url": f"/runs/{Run.objects.latest('started_at').pk}/events/"})
    page = ada.http.get(f"/chat/{chat}/").text
    assert page.count("It was a dark and stormy night.") == 1
    assert button not in page


@pytest.mark.contract("F15")
def test_a_continued_run_whose_process_is_gone_keeps_what_there_was_and_counts_only_its_own(
    ada: Person, openai: Configuration, provider: Provider
):
    _, answer = cut_answer(ada, provider, send(openai_chunk("x" * 4_000)))
    gone = Owner(uuid4(), lease=-1)
    user = answer.session.user
    run = runs.go_on(user, answer, openai, Asked(""), gone).run
    events = ada.events({"events_url": f"/runs/{run.pk}/events/"})
    assert [event.type for event in events] == ["metadata", "request_data", "chunk", "error"]
    assert (events[-1].data["code"], events[-1].data["length"]) == ("INTERRUPTED", 4_000)
    answer.refresh_from_db()
    assert (answer.content, answer.status) == ("x" * 4_000, "failed")
    assert UsageLog.objects.get(run=run).completion_tokens == 0
    assert Message.objects.count() == 2


def test_the_demo_goes_on_where_it_was_cut(ada: Person, demo: Configuration):
    chat = ada.new_chat()
    ada.events(ada.ask(chat, "/demo cut"))
    answer = Message.objects.get(role="assistant")
    begun = answer.content
    events = ada.events(go_on(ada, answer).json())
    assert events[-1].type == "done"
    answer.refresh_from_db()
    assert answer.content.startswith(begun + " one that is.")
