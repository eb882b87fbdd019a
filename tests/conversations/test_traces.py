"""Traces: a span for each request to a provider, as the protocol has it, without its text."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from conversations import traces
from conversations.models import Run, UsageLog
from providers.models import Configuration
from tests.people import Person
from tests.servers.provider import Provider, json_answer, openai_answer

KEY = "collector-key-3f2a"


@pytest.fixture
def collector(settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A collector that takes what it gets, to which traces are sent at once."""
    monkeypatch.setattr(traces, "PAUSE", 0.01)
    with Provider() as running:
        running.route(*json_answer({}))
        settings.OTEL_EXPORTER_OTLP_ENDPOINT = f"{running.url}/"
        settings.OTEL_EXPORTER_OTLP_HEADERS = [f"x-key={KEY}", "x-team=a%20b"]
        settings.OTEL_SERVICE_NAME = "our chat"
        yield running


def spans(collector: Provider, number: int) -> list[dict[str, Any]]:
    """So many spans, in the order in which they were made."""
    found: list[dict[str, Any]] = []
    traces.flush(10)
    for request in collector.requests:
        (resource,) = request.json["resourceSpans"]
        (scope,) = resource["scopeSpans"]
        found += scope["spans"]
    assert len(found) == number
    return found


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    """By name: texts, whole numbers and lists of them."""
    return {one["key"]: value(one["value"]) for one in span["attributes"]}


def value(written: dict[str, Any]) -> Any:
    ((kind, found),) = written.items()
    if kind == "arrayValue":
        return [value(inner) for inner in found["values"]]
    return int(found) if kind == "intValue" else found


@pytest.mark.contract("M6")
def test_a_request_is_a_span_with_its_model_tokens_and_times(
    ada: Person, openai: Configuration, provider: Provider, collector: Provider
):
    provider.reply(*openai_answer("marked-answer", pause=0.02))
    ada.events(ada.ask(ada.new_chat(), "marked-prompt"))
    (span,) = spans(collector, 1)
    run, row = Run.objects.get(), UsageLog.objects.get()
    told = attributes(span)
    assert span["traceId"] == run.pk.hex
    assert (span["name"], span["kind"], span["status"]) == ("chat double-1", 3, {})
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "openai"
    assert told["gen_ai.request.model"] == "double-1"
    assert told["gen_ai.usage.input_tokens"] == row.prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == row.completion_tokens
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["http.response.status_code"] == 200
    assert f"http://{told['server.address']}:{told['server.port']}" == provider.url
    took = (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9
    assert 0.01 < took <= (row.processing_time or 0) + 0.1
    assert abs(int(span["startTimeUnixNano"]) / 1e9 - run.started_at.timestamp()) < 5


@pytest.mark.contract("G9")
def test_no_text_key_or_person_is_in_what_is_sent(
    ada: Person, openai: Configuration, provider: Provider, collector: Provider
):
    provider.reply(*openai_answer("marked-answer"))
    ada.events(ada.ask(ada.new_chat(), "marked-prompt"))
    spans(collector, 1)
    (request,) = collector.requests
    assert request.path == "/v1/traces"
    assert request.headers["content-type"] == "application/json"
    assert (request.headers["x-key"], request.headers["x-team"]) == (KEY, "a b")
    resource = request.json["resourceSpans"][0]["resource"]
    assert attributes(resource) == {"service.name": "our chat"}
    assert "marked" not in request.body.decode()
    assert "ada" not in request.body.decode()


@pytest.mark.contract("M6")
def test_each_attempt_is_a_span_of_the_same_trace(
    ada: Person, openai: Configuration, provider: Provider, collector: Provider
):
    provider.reply(*json_answer({"error": {"message": "slow down"}}, status=429))
    provider.reply(*openai_answer("Hello"))
    ada.events(ada.ask(ada.new_chat(), "hi"))
    first, second = spans(collector, 2)
    assert first["traceId"] == second["traceId"]
    assert first["spanId"] != second["spanId"]
    assert [attributes(span)["llmchat.attempt"] for span in (first, second)] == [1, 2]
    assert first["status"] == {"code": 2, "message": "RATE_LIMIT_EXCEEDED"}
    assert attributes(first)["error.type"] == "RATE_LIMIT_EXCEEDED"
    assert "error.type" not in attributes(second)


@pytest.mark.contract("G8")
def test_a_collector_that_is_away_or_says_no_costs_nobody_anything(
    ada: Person, openai: Configuration, provider: Provider, collector: Provider, settings, caplog
):
    other = Provider()
    with other:
        for answer in (
            json_answer({}, status=500),
            json_answer({}, status=307, headers={"Location": other.url}),
        ):
            collector.reply(*answer)
            provider.reply(*openai_answer("Hello"))
            assert ada.events(ada.ask(ada.new_chat(), "hi"))[-1].type == "done"
            traces.flush(10)
        assert other.requests == []  # the headers are for the collector alone
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = "http://127.0.0.1:9"
    provider.reply(*openai_answer("Hello"))
    assert ada.events(ada.ask(ada.new_chat(), "hi"))[-1].type == "done"
    traces.flush(10)
    warnings = [record for record in caplog.records if record.name == "conversations.traces"]
    assert len(warnings) == 1  # one for all that is dropped meanwhile
    assert KEY not in caplog.text


def test_without_a_collector_there_is_not_even_a_thread(
    ada: Person, demo: Configuration, settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(traces, "_sender", None)
    before = senders()
    ada.events(ada.ask(ada.new_chat(), "/demo echo x", configuration_id="demo"))
    assert senders() <= before  # those of other tests may just be ending
    assert traces._sender is None


def senders() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate() if thread.name == "traces"}


def test_spans_that_nobody_takes_are_dropped_when_too_many_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(traces, "MOST_WAITING", 3)
    monkeypatch.setattr(traces._Sender, "_send_forever", lambda _: None)
    sender = traces._Sender()
    for number in range(5):
        sender.put({"spanId": str(number)})
    assert sender._waiting.qsize() == 3
    assert len(caplog.records) == 1
