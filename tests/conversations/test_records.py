"""The exact record of each provider call: what went out, what came back and when, no secrets."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from conversations.models import ProviderCall, Run
from conversations.records import body_of, forget, lines_of
from providers.models import Configuration
from tests.people import Person
from tests.servers.provider import (
    Provider,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    send,
    until,
)

KEY = "sk-planted-0123456789abcdef"
EXTRA = "extra-planted-0123456789"
KINDS: dict[str, dict[str, Any]] = {
    "openai": {},
    "openai over Responses": {"uses_responses": True},
    "openrouter": {},
    "anthropic": {},
    "ollama": {},
    "local": {},
    "airefinery": {},
    "custom": {"request": {"body": {"text": "{{prompt}}"}}, "response": {"format": "text"}},
}


@pytest.fixture
def make_configuration(provider: Provider) -> Callable[..., Configuration]:
    def make(kind: str, **fields: Any) -> Configuration:
        configuration = Configuration(
            name=kind,
            slug="planted",
            kind=kind,
            model="double-1",
            base_url=provider.url,
            extra_headers={"X-Planted": EXTRA},
            **fields,
        )
        configuration.set_api_key(KEY)
        configuration.save()
        return configuration

    return make


def calls_of(run: dict[str, Any]) -> list[ProviderCall]:
    return list(ProviderCall.objects.filter(run=run["run_id"]))


@pytest.mark.contract("G9")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_recorded_is_what_the_provider_received_with_its_secrets_masked(
    kind: str,
    ada: Person,
    make_configuration: Callable[..., Configuration],
    provider: Provider,
):
    make_configuration(kind.partition(" ")[0], **KINDS[kind])
    provider.reply(*json_answer({"error": {"message": f"no, {KEY}"}}, status=400))
    run = ada.ask(ada.new_chat(), "grüße 🎉", configuration_id="planted")
    ada.events(run)
    (received,) = provider.requests
    (call,) = calls_of(run)
    assert body_of(call) == received.body
    assert call.body_length == len(received.body)
    assert call.body_sha256 == hashlib.sha256(received.body).hexdigest()
    assert (call.url.removeprefix(provider.url) or "/") == received.path
    assert call.method == received.method
    recorded = {name.lower(): value for name, value in call.headers}
    assert recorded.keys() == received.headers.keys()
    masked = {name for name, value in recorded.items() if value != received.headers[name]}
    assert {name for name, value in received.headers.items() if KEY in value or EXTRA in value} == (
        masked
    )
    assert "x-planted" in masked
    assert call.status == 400
    said = repr([call.headers, call.response_headers, call.url, lines_of(call)])
    assert KEY not in said
    assert EXTRA not in said
    assert "no, " in said


@pytest.mark.contract("M2")
def test_each_line_of_the_answer_is_recorded_with_its_time(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("one ", "two ", pause=0.05))
    run = ada.ask(ada.new_chat(), "count")
    ada.events(run)
    (call,) = calls_of(run)
    lines = lines_of(call)
    assert all(line.startswith("data: ") or not line for _, line in lines)
    times = [after for after, _ in lines]
    assert times == sorted(times)
    one, two = (next(after for after, line in lines if word in line) for word in ("one ", "two "))
    assert two - one >= 40  # ms
    assert call.status == 200
    assert (call.headers_after or 0) * 1000 <= times[0]
    assert (call.ended_after or 0) * 1000 >= times[-1]
    assert call.received_length == sum(len(line.encode()) + 1 for _, line in lines)
    assert not call.is_cut


def test_each_attempt_has_its_own_record(ada: Person, openai: Configuration, provider: Provider):
    provider.reply(*json_answer({"error": {"message": "busy"}}, 503, {"Retry-After": "0"}))
    provider.reply(*openai_answer("fine"))
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    assert [(call.attempt, call.status, call.error_code) for call in calls_of(run)] == [
        (1, 503, "PROVIDER_OVERLOADED"),
        (2, 200, ""),
    ]


def test_a_request_that_reached_nobody_is_recorded_as_unanswered(
    ada: Person, openai: Configuration, provider: Provider
):
    Configuration.objects.update(base_url="http://127.0.0.1:9", kind="local")
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    calls = calls_of(run)
    assert {(call.status, call.error_code) for call in calls} == {(None, "PROVIDER_OFFLINE")}
    assert all(b"hello" in body_of(call) for call in calls)


@pytest.mark.contract("D2")
def test_the_request_is_stored_while_its_answer_is_still_awaited(
    ada: Person, openai: Configuration, provider: Provider
):
    go_on = threading.Event()
    provider.reply(head(), send(openai_chunk("begun ")), until(go_on), *openai_answer("end")[1:])
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "chunk")
        stored = Run.objects.get(pk=run["run_id"])
        while not stored.calls.exists():
            ada.get("/healthz")
        (call,) = calls_of(run)
        assert (call.status, call.ended_after, lines_of(call)) == (None, None, [])
        assert body_of(call) == provider.requests[0].body
        go_on.set()
    ada.events(run)
    assert calls_of(run)[0].status == 200


def test_a_stopped_call_keeps_what_had_come(ada: Person, openai: Configuration, provider: Provider):
    provider.reply(head(), send(openai_chunk("begun ")), hang())
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        next(event for event in events if event.type == "chunk")
    ada.stop(run)
    (call,) = calls_of(run)
    assert "begun " in lines_of(call)[0][1]
    assert call.ended_after is not None


def test_of_a_long_answer_only_the_beginning_is_kept(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.RECORD_MAX_BYTES = 1000
    provider.reply(*openai_answer(*["word " * 20] * 40))
    run = ada.ask(ada.new_chat(), "write")
    ada.events(run)
    (call,) = calls_of(run)
    assert call.is_cut
    assert call.received_length > 4000
    assert sum(len(line) + 1 for _, line in lines_of(call)) <= 1001


def test_old_records_are_forgotten_and_young_ones_stay(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("fine"), model="double-1")
    runs = [ada.ask(ada.new_chat(), f"question {number}") for number in range(2)]
    for run in runs:
        ada.events(run)
    call = calls_of(runs[0])[0]
    ProviderCall.objects.filter(pk=call.pk).update(sent_at=call.sent_at.replace(year=2020))
    assert forget(30) == 1
    assert forget(30) == 0
    assert [len(calls_of(run)) for run in runs] == [0, 1]
