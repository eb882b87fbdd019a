"""F4: a long line passes; a line without end, and an answer without end, are cut in time.

The limits as they are by default are tested under a server in a process of its own, where its
memory can be measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from providers.models import Configuration
from tests.faults import stored
from tests.faults.checks import watch
from tests.people import Person, text_of
from tests.servers.footprint import MIB, forget_peak, peak_memory
from tests.servers.processes import Process
from tests.servers.provider import (
    Provider,
    Step,
    hang,
    head,
    openai_answer,
    openai_chunk,
    repeat,
    send,
    wait,
)
from tests.servers.sites import ADMIN, PASSWORD, Site, uvicorn

ANSWER_LIMIT = 4 * MIB  # bytes, ANSWER_MAX_BYTES by default


@contextmanager
def served(site: Site, provider: Provider) -> Iterator[tuple[Process, Person]]:
    """The site, which has answered once, and its administrator."""
    lean = {**site, "DJANGO_SETTINGS_MODULE": "tests.servers.lean_settings"}
    with (
        uvicorn(lean) as (process, url),
        Person(url, ADMIN, PASSWORD) as admin,
    ):
        provider.reply(*openai_answer("warm"))
        admin.events(admin.ask(admin.new_chat(), "hello"))
        provider.clear()
        yield process, admin


@contextmanager
def bounded_memory(process: Process) -> Iterator[None]:
    """Fails if the process used more memory for what happened than it may."""
    forget_peak(process.pid)
    before = peak_memory(process.pid)
    yield
    grown = peak_memory(process.pid) - before
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB more"


@pytest.mark.contract("F4")
@pytest.mark.usefixtures("invariants")
def test_a_line_of_a_mebibyte_passes(ada: Person, openai: Configuration, provider: Provider):
    text = "x" * MIB
    provider.reply(*openai_answer(text))
    assert watch(ada).end["full_response"] == text


@pytest.mark.contract("F4")
@pytest.mark.usefixtures("invariants")
def test_a_line_and_an_answer_are_cut_where_the_settings_say(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.LINE_MAX_BYTES = 20_000
    provider.reply(
        head(), send(openai_chunk("kept")), wait(0.05), send("data: " + 20_000 * "x"), hang()
    )
    watched = watch(ada)
    assert (watched.end["code"], watched.text) == ("PROVIDER_ERROR", "kept")
    settings.ANSWER_MAX_BYTES = 10_000
    provider.reply(head(), *[send(openai_chunk("x" * 1000))] * 40, hang())
    watched = watch(ada)
    assert (watched.end["finish_reason"], watched.text) == ("length", "x" * 10_000)
    for request in provider.requests:
        request.wait_for_close(1)


@pytest.mark.contract("F4")
def test_a_line_without_end_is_cut_the_provider_closed_and_the_text_before_it_kept(
    sqlite_site: Site, provider: Provider
):
    endless: list[Step] = [send("data: "), repeat(b"x" * 65_536)]
    with served(sqlite_site, provider) as (process, admin):
        provider.reply(head(), send(openai_chunk("kept")), wait(0.05), *endless)
        with bounded_memory(process):
            events = admin.events(admin.ask(admin.new_chat(), "hello"))
        assert events[-1].data["code"] == "PROVIDER_ERROR"
        assert "line longer than" in events[-1].data["message"]
        assert text_of(events) == "kept"
        provider.wait_for_request().wait_for_close(1)
        assert len(provider.requests) == 1
        assert stored.faults(sqlite_site, admin) == []


@pytest.mark.contract("F4")
def test_an_answer_without_end_is_done_at_its_limit_and_all_of_it_stored(
    sqlite_site: Site, provider: Provider
):
    with served(sqlite_site, provider) as (process, admin):
        provider.reply(head(), repeat(openai_chunk("words and wörds and 言葉 " * 30)))
        with bounded_memory(process):
            events = admin.events(admin.ask(admin.new_chat(), "hello"))
        done = events[-1].data
        assert (done["type"], done["finish_reason"]) == ("done", "length")
        assert text_of(events) == done["full_response"]
        assert ANSWER_LIMIT - 3 <= len(done["full_response"].encode()) <= ANSWER_LIMIT
        provider.wait_for_request().wait_for_close(1)
        assert len(provider.requests) == 1
        assert stored.faults(sqlite_site, admin) == []
