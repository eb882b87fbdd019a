"""F3: bytes that come split, with any line end, broken. The text is exact, or the run says so."""

import json

import pytest

from conversations.models import Message
from providers.models import Configuration
from tests.faults.checks import watch
from tests.people import Person
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    bytewise,
    hang,
    head,
    openai_chunk,
    openai_usage,
    send,
    wait,
)

pytestmark = pytest.mark.usefixtures("invariants")

TEXT = "é日本🎉 \u2028\u0085\v\f\x1c end\r\nof\rit\n"


@pytest.mark.contract("F3")
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 3])
def test_any_line_end_and_any_split_inside_characters_give_the_exact_text(
    ada: Person, openai: Configuration, provider: Provider, ending: str, size: int
):
    body = (openai_chunk(TEXT) + openai_chunk(finish="stop") + OPENAI_DONE).decode()
    provider.reply(head(), *bytewise(body.replace("\n", ending), size))
    watched = watch(ada)
    assert watched.text == watched.end["full_response"] == TEXT
    assert Message.objects.get(role="assistant").content == TEXT


@pytest.mark.contract("F3")
def test_what_python_takes_for_a_line_end_is_text_to_us(
    ada: Person, openai: Configuration, provider: Provider
):
    characters = "\u2028\u2029\u0085"
    escaped = json.dumps(characters)[1:-1]
    chunk = openai_chunk("a#b").replace(b"#", f"{characters}{escaped}".encode())
    provider.reply(head(), send(chunk), send(openai_chunk(finish="stop")))
    assert watch(ada).end["full_response"] == f"a{characters}{characters}b"


@pytest.mark.contract("F3")
def test_a_broken_byte_becomes_a_replacement_character(
    ada: Person, openai: Configuration, provider: Provider
):
    broken = openai_chunk("a#b").replace(b"#", b"\xff")
    provider.reply(head(), send(broken), send(openai_chunk(finish="stop")), send(OPENAI_DONE))
    assert watch(ada).end["full_response"] == "a\ufffdb"


@pytest.mark.contract("F3")
@pytest.mark.parametrize("text", ["a\\u0000b", "a\\ud800b"])
def test_what_no_database_stores_becomes_a_replacement_character(
    ada: Person, openai: Configuration, provider: Provider, text: str
):
    chunk = openai_chunk("#").replace(b"#", text.encode())
    provider.reply(head(), send(chunk), send(openai_chunk(finish="stop")), send(OPENAI_DONE))
    assert watch(ada).end["full_response"] == "a\ufffdb"
    assert Message.objects.get(role="assistant").content == "a\ufffdb"


@pytest.mark.contract("F3")
@pytest.mark.parametrize("line", ["{broken", "<html>", '{"choices":['])
@pytest.mark.parametrize("is_together", [True, False], ids=["in one packet", "by itself"])
def test_a_line_that_cannot_be_read_ends_the_run_and_keeps_the_text_before_it(
    ada: Person, openai: Configuration, provider: Provider, line: str, is_together: bool
):
    kept, broken = openai_chunk("kept"), f"data: {line}\n\n".encode()
    rest: list[Step] = [send(openai_chunk("lost")), hang()]
    if is_together:
        provider.reply(head(), send(kept + broken), *rest)
    else:
        provider.reply(head(), send(kept), wait(0.01), send(broken), *rest)
    watched = watch(ada)
    assert watched.end["code"] == "PROVIDER_ERROR"
    assert watched.text == "kept"
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == ("kept", "failed")
    provider.wait_for_request().wait_for_close(1)
    assert len(provider.requests) == 1


@pytest.mark.contract("F3")
def test_a_line_that_cannot_be_read_before_any_text_is_no_empty_answer(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(head(), send("data: {broken\n\n"), send(openai_usage()), model="double-1")
    watched = watch(ada)
    assert watched.end["code"] == "PROVIDER_ERROR"
    assert not Message.objects.filter(role="assistant").exists()
