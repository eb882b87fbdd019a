"""What providers do wrong, byte by byte, and what must be left of it (F1 to F8, G2, G6)."""

import json
import time
from typing import Any

import pytest

from conversations.models import Message, Run, UsageLog
from providers.models import Configuration
from tests.people import Person, Received, text_of
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    bytewise,
    close,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    raw,
    reset,
    send,
    sse,
    wait,
)


@pytest.fixture
def impatient(openai: Configuration) -> Configuration:
    """The double, with limits that a test can wait for."""
    openai.first_chunk_timeout = 0.5
    openai.chunk_timeout = 0.5
    openai.save()
    return openai


def run_to_its_end(ada: Person, prompt: str = "hello") -> tuple[list[Received], dict[str, Any]]:
    events = ada.events(ada.ask(ada.new_chat(), prompt))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event for event in events if event.type in ("done", "error")] == [events[-1]]
    assert UsageLog.objects.count() == Run.objects.count()
    assert not Run.objects.running().exists()
    return events, events[-1].data


@pytest.mark.contract("F1")
@pytest.mark.parametrize(
    "steps",
    [
        [hang()],
        [head(), hang()],
        [head(), send(": ping\n\n"), wait(0.2), send(": ping\n\n"), hang()],
        [head(), send(openai_chunk(role="assistant", content="")), hang()],
    ],
    ids=["before the headers", "before any byte", "with pings", "with an empty delta"],
)
def test_a_provider_that_never_begins_is_a_timeout_and_is_not_asked_again(
    ada: Person, impatient: Configuration, provider: Provider, steps: list[Step]
):
    provider.reply(*steps)
    started = time.monotonic()
    _, error = run_to_its_end(ada)
    assert error["code"] == "TIMEOUT"
    assert error["recoverable"] is True
    assert 0.5 <= time.monotonic() - started < 3
    provider.wait_for_request().wait_for_close(1)
    assert len(provider.requests) == 1
    assert [message.role for message in Message.objects.all()] == ["user"]


@pytest.mark.contract("F1")
def test_a_provider_that_stalls_after_20_chunks_leaves_20_chunks(
    ada: Person, impatient: Configuration, provider: Provider
):
    provider.reply(head(), *[send(openai_chunk(f"{index} ")) for index in range(20)], hang())
    events, error = run_to_its_end(ada)
    expected = "".join(f"{index} " for index in range(20))
    assert error["code"] == "TIMEOUT"
    assert text_of(events) == expected
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == (expected, "failed")
    usage = UsageLog.objects.get()
    assert (usage.status, usage.code, usage.cost_source) == ("error", "TIMEOUT", "estimated")
    provider.wait_for_request().wait_for_close(1)


@pytest.mark.contract("P4")
def test_a_run_that_takes_too_long_in_all_is_a_timeout(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.total_timeout = 0.6
    openai.save()
    provider.reply(*openai_answer(*["x"] * 100, pause=0.05))
    events, error = run_to_its_end(ada)
    assert error["code"] == "TIMEOUT"
    assert "0.6 seconds" in error["message"]
    assert 0 < len(text_of(events)) < 100
    provider.wait_for_request().wait_for_close(1)


@pytest.mark.contract("F2")
@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("how", [reset, close, None])
def test_an_answer_that_breaks_off_is_never_done(
    ada: Person, openai: Configuration, provider: Provider, count: int, how: Any
):
    chunks = [send(openai_chunk("x")) for _ in range(count)]
    provider.reply(head(), *chunks, wait(0.1), *([how()] if how else []))
    events, error = run_to_its_end(ada)
    assert error["code"] == "STREAM_INTERRUPTED"
    assert text_of(events) == "x" * count
    assert Message.objects.get(role="assistant").content == "x" * count
    assert len(provider.requests) == 1


@pytest.mark.contract("F2")
def test_an_answer_that_breaks_off_before_it_began_may_be_asked_for_again(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(head(), close(), model="double-1")
    events, error = run_to_its_end(ada)
    assert error["code"] == "STREAM_INTERRUPTED"
    assert [event.type for event in events].count("retry") == 2
    assert len(provider.requests) == 3


@pytest.mark.contract("F2")
@pytest.mark.parametrize(
    "end", [{"finish": "stop", "done": False}, {"finish": None, "usage": None, "done": True}]
)
def test_a_finish_reason_alone_or_an_end_marker_alone_completes_an_answer(
    ada: Person, openai: Configuration, provider: Provider, end: dict[str, Any]
):
    provider.reply(*openai_answer("whole", **end))
    _, done = run_to_its_end(ada)
    assert done["type"] == "done"
    assert done["full_response"] == "whole"


@pytest.mark.contract("F3")
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_one_byte_a_packet_and_any_line_end_give_the_exact_text(
    ada: Person, openai: Configuration, provider: Provider, ending: str
):
    text = "é日本🎉 \u2028\u0085 end"
    body = (openai_chunk(text) + openai_chunk(finish="stop") + OPENAI_DONE).decode()
    provider.reply(head(), *bytewise(body.replace("\n", ending)))
    events, done = run_to_its_end(ada)
    assert text_of(events) == done["full_response"] == text


@pytest.mark.contract("F3")
def test_a_broken_byte_becomes_a_replacement_character(
    ada: Person, openai: Configuration, provider: Provider
):
    broken = openai_chunk("a#b").replace(b"#", b"\xff")
    provider.reply(head(), send(broken), send(openai_chunk(finish="stop")), send(OPENAI_DONE))
    _, done = run_to_its_end(ada)
    assert done["full_response"] == "a\ufffdb"


@pytest.mark.contract("F3")
@pytest.mark.parametrize("text", ["a\\u0000b", "a\\ud800b"])
def test_what_no_database_stores_becomes_a_replacement_character(
    ada: Person, openai: Configuration, provider: Provider, text: str
):
    chunk = openai_chunk("#").replace(b"#", text.encode())
    provider.reply(head(), send(chunk), send(openai_chunk(finish="stop")), send(OPENAI_DONE))
    _, done = run_to_its_end(ada)
    assert done["full_response"] == "a\ufffdb"
    assert Message.objects.get(role="assistant").content == "a\ufffdb"


@pytest.mark.contract("F3")
def test_a_line_that_cannot_be_read_ends_the_run_and_keeps_the_text_before_it(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(
        head(), send(openai_chunk("kept")), send("data: {broken\n\n"), send(openai_chunk("lost"))
    )
    events, error = run_to_its_end(ada)
    assert error["code"] == "PROVIDER_ERROR"
    assert text_of(events) == "kept"
    assert Message.objects.get(role="assistant").content == "kept"


@pytest.mark.contract("F4")
def test_a_line_of_a_mebibyte_passes(ada: Person, openai: Configuration, provider: Provider):
    text = "x" * 1024**2
    provider.reply(*openai_answer(text))
    _, done = run_to_its_end(ada)
    assert done["full_response"] == text


@pytest.mark.contract("F4")
def test_a_line_without_end_is_cut_and_the_provider_closed(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.LINE_MAX_BYTES = 100_000
    filler = send("x" * 50_000)
    provider.reply(
        head(), send(openai_chunk("kept")), wait(0.05), send("data: "), *[filler] * 9, hang()
    )
    events, error = run_to_its_end(ada)
    assert error["code"] == "PROVIDER_ERROR"
    assert text_of(events) == "kept"
    provider.wait_for_request().wait_for_close(1)


@pytest.mark.contract("F4")
def test_an_answer_without_end_is_cut_as_too_long(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.ANSWER_MAX_BYTES = 10_000
    provider.reply(head(), *[send(openai_chunk("x" * 1000))] * 40, hang())
    events, done = run_to_its_end(ada)
    assert done["finish_reason"] == "length"
    assert text_of(events) == done["full_response"]
    assert 0 < len(done["full_response"]) <= 11_000
    provider.wait_for_request().wait_for_close(1)


@pytest.mark.contract("F6")
@pytest.mark.parametrize(
    ("steps", "code"),
    [
        (json_answer({"error": {"code": 401, "message": "bad"}}), "API_KEY_INVALID"),
        ([head(), send(sse({"error": {"message": "overloaded"}}, "error"))], "PROVIDER_OVERLOADED"),
        ([head(), send(sse({"error": {"message": "boom"}}))], "PROVIDER_ERROR"),
        ([head(200, "text/html"), send("<html><body>Welcome</body></html>")], "INVALID_REQUEST"),
        ([head()], "STREAM_INTERRUPTED"),
        ([raw(b"not http at all\r\n\r\n"), close()], "PROVIDER_OFFLINE"),
    ],
    ids=["json", "named event", "in the stream", "web page", "nothing", "no http"],
)
def test_an_error_inside_a_success_is_an_error(
    ada: Person, openai: Configuration, provider: Provider, steps: list[Step], code: str
):
    provider.route(*steps, model="double-1")
    _, error = run_to_its_end(ada)
    assert error["type"] == "error"
    assert error["code"] == code


@pytest.mark.contract("A16")
def test_a_redirect_is_not_followed_and_its_target_is_named(
    ada: Person, openai: Configuration, provider: Provider
):
    target = "https://elsewhere.example/v1/chat/completions"
    provider.reply(head(308, headers={"Location": target}))
    _, error = run_to_its_end(ada)
    assert error["code"] == "INVALID_REQUEST"
    assert "elsewhere.example" in error["message"]


def test_a_provider_that_is_not_there_is_offline(ada: Person, openai: Configuration):
    openai.base_url = "http://127.0.0.1:9"
    openai.save()
    events, error = run_to_its_end(ada)
    assert error["code"] == "PROVIDER_OFFLINE"
    assert error["recoverable"] is True
    assert [event.type for event in events].count("retry") == 2


def test_a_key_that_can_no_longer_be_decrypted_ends_the_run_and_says_what_to_do(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    from cryptography.fernet import Fernet

    chat = ada.new_chat()
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    events = ada.events(ada.ask(chat, "hello"))
    assert [event.type for event in events] == ["metadata", "request_data", "error"]
    assert events[-1].data["code"] == "API_KEY_INVALID"
    assert "enter it again" in events[-1].data["message"]
    assert events[1].data["full_request_body"]["messages"][-1]["content"] == "hello"
    assert not provider.requests
    assert ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.contract("A18")
def test_the_key_is_sent_to_the_provider_and_found_nowhere_else(
    ada: Person, openai: Configuration, provider: Provider, capfd: Any, caplog: Any
):
    caplog.set_level("DEBUG")
    provider.reply(*openai_answer("fine"))
    chat = ada.new_chat()
    run = ada.ask(chat, "hello")
    events = ada.events(run)
    assert provider.wait_for_request().headers["authorization"] == "Bearer sk-marked-key-0123456789"
    pages = [
        ada.get(path, headers={"Accept": "text/html"}).text
        for path in (f"/chat/{chat}/", f"/monitor/runs/{run['run_id']}/")
    ]
    said = "".join([*pages, json.dumps([event.data for event in events]), caplog.text])
    said += "".join(capfd.readouterr())
    said += repr(list(Configuration.objects.values())) + repr(openai.__dict__)
    assert "marked-key" not in said
