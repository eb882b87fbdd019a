"""A run from the question to its last event, over real sockets on both sides (S1 to S9)."""

import json
from typing import Any

import pytest

from conversations.models import Message, Run, UsageLog
from providers.client import encode_body
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import (
    Provider,
    head,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    openai_usage,
    reset,
    send,
    wait,
)


@pytest.mark.contract("S1")
def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it_back(
    ada: Person, demo: Configuration
):
    run = ada.ask(ada.new_chat(), "hello")
    with ada.http.stream("GET", run["events_url"]) as response:
        response.read()
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Encoding" not in response.headers


@pytest.mark.contract("S2")
@pytest.mark.contract("S3")
def test_events_are_numbered_from_1_without_a_gap_and_come_in_order(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("Hel", "lo", " there", pause=0.02, reasoning=["Hm", "m"]))
    run = ada.ask(ada.new_chat(), "hello")
    events = ada.events(run)
    assert [event.id for event in events] == [
        f"{run['run_id']}:{number}" for number in range(1, len(events) + 1)
    ]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["metadata", "request_data"]
    assert kinds[-1] == "done"
    assert set(kinds[2:-1]) == {"reasoning", "chunk"}
    assert [event.name for event in events if event.name] == ["request_data"]


@pytest.mark.contract("S4")
@pytest.mark.contract("S5")
def test_request_data_is_the_body_that_the_provider_got_key_for_key(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.system_instructions = "Be brief. “Ünï” \u2028 ok"
    openai.save()
    chat = ada.new_chat()
    for prompt in ("first", "second 日本語"):
        provider.reply(*openai_answer("fine"))
        run = ada.ask(chat, prompt, temperature="0.5", max_tokens=100, context_limit=4)
        events = ada.events(run)
    metadata, request_data = events[0].data, events[1].data
    received = provider.wait_for_request(2)
    assert metadata["run_id"] == run["run_id"]
    assert metadata["user_message_id"] == run["user_message_id"]
    assert metadata["user_prompt"] == "second 日本語"
    assert metadata["context_size"] == 2
    assert metadata["input_tokens"] > 0
    assert request_data["full_request_body"] == received.json
    assert encode_body(request_data["full_request_body"]) == received.body
    assert request_data["metadata"] == {
        "provider": "openai",
        "configuration": "double",
        "model": "double-1",
        "endpoint": f"{provider.url}/v1/chat/completions",
        "timestamp": request_data["metadata"]["timestamp"],
        "run_id": run["run_id"],
        "session_id": chat,
        "message_id": run["user_message_id"],
    }
    assert request_data["parameters"] == {
        "temperature": 0.5,
        "max_tokens": 100,
        "top_p": None,
        "context_limit": 4,
        "actual_context_size": 2,
    }
    assert request_data["system_instructions"] == openai.system_instructions
    assert request_data["current_prompt"] == "second 日本語"
    context = request_data["context_messages"]
    assert [(message["role"], message["content"]) for message in context] == [
        ("user", "first"),
        ("assistant", "fine"),
    ]
    assert {"id", "role", "content", "tokens", "created_at"} == set(context[0])


@pytest.mark.contract("S6")
@pytest.mark.contract("S7")
def test_joined_chunks_the_end_and_the_database_have_the_same_text(
    ada: Person, openai: Configuration, provider: Provider
):
    pieces = ["Zür", "ich\r\n", "日本", "\u2028", "语 🎉", " data: x\n\n", "id: 7"]
    provider.reply(*openai_answer(*pieces, pause=0.01, usage=(100, 50)))
    run = ada.ask(ada.new_chat(), "hello")
    events = ada.events(run)
    done = events[-1].data
    assert text_of(events) == "".join(pieces)
    assert done["full_response"] == "".join(pieces)
    message = Message.objects.get(pk=done["assistant_message_id"])
    assert message.content == "".join(pieces)
    tokens = [event.data["tokens"] for event in events if event.type == "chunk"]
    assert tokens == sorted(tokens)
    assert done["finish_reason"] == "stop"
    assert done["stopped"] is False
    metrics = done["metrics"]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (100, 50)
    assert metrics["total_tokens"] == 150
    assert metrics["estimated"] is False
    assert metrics["cost_usd"] == pytest.approx(0.0002)
    assert metrics["cost_source"] == "computed"
    assert 0 < metrics["time_to_first_chunk"] <= metrics["processing_time"]


@pytest.mark.contract("S6")
@pytest.mark.contract("C4")
def test_reasoning_is_told_apart_from_the_answer_and_stored_apart(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("42", reasoning=["Let me ", "think"], pause=0.01))
    events = ada.events(ada.ask(ada.new_chat(), "hello"))
    reasoning = [event.data["content"] for event in events if event.type == "reasoning"]
    message = Message.objects.get(pk=events[-1].data["assistant_message_id"])
    assert "".join(reasoning) == message.reasoning == "Let me think"
    assert events[-1].data["full_response"] == message.content == "42"
    assert message.reasoning_seconds is not None


@pytest.mark.contract("S6")
def test_a_tool_call_comes_in_pieces_and_is_stored_whole(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(
        head(),
        *openai_tool_call("get_weather", '{"city":', '"Zürich"}'),
        send(openai_chunk(finish="tool_calls")),
        send(openai_usage()),
    )
    events = ada.events(ada.ask(ada.new_chat(), "hello"))
    pieces = [event.data for event in events if event.type == "tool_call"]
    assert "".join(piece["arguments"] for piece in pieces) == '{"city":"Zürich"}'
    assert pieces[0]["name"] == "get_weather"
    assert pieces[0]["id"] == "call_1"
    assert events[-1].data["finish_reason"] == "tool_calls"
    message = Message.objects.get(pk=events[-1].data["assistant_message_id"])
    assert json.loads(message.tool_calls[0]["arguments"]) == {"city": "Zürich"}


@pytest.mark.contract("S8")
def test_an_error_names_the_provider_and_leaves_the_question_where_it_is(
    ada: Person, openai: Configuration, provider: Provider
):
    body = {"error": {"message": "Incorrect API key provided: sk-marked-key-0123456789"}}
    provider.reply(head(401, "application/json"), send(json.dumps(body)))
    run = ada.ask(ada.new_chat(), "hello")
    events = ada.events(run)
    error = events[-1].data
    assert [event.type for event in events] == ["metadata", "request_data", "error"]
    assert error["code"] == "API_KEY_INVALID"
    assert error["recoverable"] is False
    assert error["retry_after"] is None
    assert "Double" in error["message"]
    assert "marked-key" not in error["message"]
    assert Message.objects.get().pk == run["user_message_id"]
    usage = UsageLog.objects.get()
    assert (usage.status, usage.code) == ("error", "API_KEY_INVALID")
    assert usage.cost_usd is None


@pytest.mark.contract("S6")
@pytest.mark.contract("P3")
def test_what_may_pass_is_asked_again_before_the_first_chunk_and_said_so(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(503, "application/json"), send('{"error":{"message":"busy"}}'))
    provider.reply(reset())
    provider.reply(*openai_answer("at last"))
    events = ada.events(ada.ask(ada.new_chat(), "hello"))
    retries = [event.data for event in events if event.type == "retry"]
    assert [retry["attempt"] for retry in retries] == [2, 3]
    assert [retry["code"] for retry in retries] == ["PROVIDER_OVERLOADED", "PROVIDER_OFFLINE"]
    assert retries[0]["max_attempts"] == 3
    assert retries[1]["delay"] > retries[0]["delay"] > 0
    assert text_of(events) == "at last"
    assert len(provider.requests) == 3


@pytest.mark.contract("P3")
def test_nothing_is_asked_again_once_a_chunk_was_passed_on(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("partial text")), wait(0.05), reset())
    run = ada.ask(ada.new_chat(), "hello")
    events = ada.events(run)
    assert events[-1].data["code"] == "STREAM_INTERRUPTED"
    assert events[-1].data["recoverable"] is True
    assert len(provider.requests) == 1
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == ("partial text", "failed")
    assert Run.objects.get().status == "error"


@pytest.mark.contract("P3")
def test_a_wait_that_the_provider_asks_for_is_kept_or_reported_when_it_is_too_long(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.RETRY_MAX_DELAY = 5
    provider.reply(head(429, "application/json", {"Retry-After": "90"}), send("{}"))
    events = ada.events(ada.ask(ada.new_chat(), "hello"))
    assert [event.type for event in events] == ["metadata", "request_data", "error"]
    assert events[-1].data["code"] == "RATE_LIMIT_EXCEEDED"
    assert events[-1].data["retry_after"] == 90
    assert events[-1].data["recoverable"] is True
    provider.reply(head(429, "application/json", {"Retry-After": "0.2"}), send("{}"))
    provider.reply(*openai_answer("ok"))
    events = ada.events(ada.ask(ada.new_chat(), "again"))
    assert [event.data["delay"] >= 0.2 for event in events if event.type == "retry"] == [True]


@pytest.mark.contract("S9")
def test_a_silent_stream_sends_pings(ada: Person, openai: Configuration, provider: Provider):
    provider.reply(head(), wait(2.5), *openai_answer("late")[1:])
    run = ada.ask(ada.new_chat(), "hello")
    with ada.http.stream("GET", run["events_url"]) as response:
        text = response.read().decode()
    assert ": ping\n\n" in text
    assert text.index(": ping") < text.index('"chunk"')


def test_many_runs_of_many_people_do_not_touch_each_other(
    make_person: Any, openai: Configuration, provider: Provider
):
    people = [make_person(f"person{index}") for index in range(4)]
    runs: list[tuple[Person, dict[str, Any], str]] = []
    for person in people:
        for copy in range(3):
            prompt = f"{person.url}{copy}"
            openai_model = f"m{len(runs)}"
            configuration = Configuration.objects.create(
                name=openai_model,
                slug=openai_model,
                kind="openai",
                model=openai_model,
                base_url=provider.url,
            )
            pieces = [f"{openai_model}-{piece} " for piece in range(20)]
            provider.route(*openai_answer(*pieces, pause=0.005), model=openai_model)
            run = person.ask(person.new_chat(), prompt, configuration_id=configuration.slug)
            runs.append((person, run, "".join(pieces)))
    for person, run, expected in runs:
        assert text_of(person.events(run)) == expected


@pytest.mark.contract("C8")
def test_with_streaming_off_the_same_post_answers_once_with_the_stored_result(
    ada: Person, openai: Configuration, provider: Provider
):
    assert ada.post("/preferences/", data={}).status_code == 204
    provider.reply(*openai_answer("Hello", " there", usage=(5, 2)))
    answer = ada.send(ada.new_chat(), "hello").json()
    assert answer["type"] == "done"
    assert answer["full_response"] == "Hello there"
    assert answer["metrics"]["total_tokens"] == 7
    assert Message.objects.get(pk=answer["assistant_message_id"]).content == "Hello there"
    stored = ada.events(answer)[-1].data
    assert stored["metrics"] == answer["metrics"]
