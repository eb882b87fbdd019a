"""What a process holds does not grow with its viewers, nor with the runs it has had (G7, F14)."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest

from tests.people import Person, text_of
from tests.servers.footprint import (
    HANDLES,
    KIB,
    MIB,
    POOLED,
    Footprint,
    footprint_at_rest,
    wait_until_back,
    warm_up,
)
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)
from tests.servers.sites import ADMIN, PASSWORD, Site, daphne, uvicorn
from tests.servers.sockets import SMALL, BareViewer, crowd

CROWD = 500  # viewers
RUNS = 5  # that they follow
FINISHED = 120  # runs
READERS = 20  # of one long answer
WORDS = "word " * 1_600


@dataclass(frozen=True)
class Served:
    """A process of a site with somebody in it, who is also where the runs are: there, as a rule."""

    pid: int
    site: Site
    admin: Person
    admin_at_runs: Person

    def run(self) -> dict[str, Any]:
        return self.admin_at_runs.ask(self.admin_at_runs.new_chat(), "hi")

    def at_rest(self) -> Footprint:
        return footprint_at_rest(self.pid, self.site)

    def wait_until_back(self, before: Footprint, memory: int) -> None:
        wait_until_back(self.pid, self.site, before, memory)


LIMITS = {
    "DJANGO_SETTINGS_MODULE": "tests.servers.lean_settings",
    "STREAMS_PER_USER": "1000",
    "RUNS_PER_USER": "50",
    "ANSWER_MAX_BYTES": str(8 * MIB),
}


@pytest.fixture(params=[(daphne, "sqlite_site"), (uvicorn, "postgres_site")])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Each server and each database has its turn."""
    server, name = request.param
    site = {**request.getfixturevalue(name), **LIMITS}
    with server(site) as (process, url), Person(url, ADMIN, PASSWORD) as admin:
        yield Served(process.pid, site, admin, admin)


@pytest.fixture
def served_elsewhere(shared_site: Site) -> Iterator[Served]:
    """One of two processes; the runs are the other one's."""
    site = {**shared_site, **LIMITS}
    with (
        uvicorn(site) as (_, owner),
        uvicorn(site) as (process, url),
        Person(owner, ADMIN, PASSWORD) as admin_at_runs,
        admin_at_runs.at(url) as admin,
    ):
        yield Served(process.pid, site, admin, admin_at_runs)


def two_words(gate: threading.Event) -> list[Step]:
    """An answer that goes on once the gate is open."""
    finish = [send(openai_chunk(finish="stop")), send(OPENAI_DONE)]
    return [head(), send(openai_chunk("one ")), until(gate), send(openai_chunk("two")), *finish]


@pytest.mark.contract("G7")
def test_viewers_who_vanish_at_once_leave_nothing_behind_and_their_runs_go_on(
    served: Served, provider: Provider
):
    gate = threading.Event()
    provider.route(*two_words(gate))
    runs = [served.run() for _ in range(RUNS)]

    def come_and_vanish() -> None:
        for number, viewer in enumerate(crowd(served.admin, runs, CROWD)):
            if number % 2:
                viewer.reset()
            else:
                viewer.close()

    come_and_vanish()
    before = served.at_rest()
    assert before.handles < CROWD / 10
    come_and_vanish()
    served.wait_until_back(before, memory=CROWD * 8 * KIB)
    gate.set()
    for run in runs:
        events = served.admin.events(run)
        assert (events[-1].type, text_of(events)) == ("done", "one two")


@pytest.mark.contract("G7")
def test_a_hundred_viewers_take_no_more_threads_and_connections_than_one(
    served: Served, provider: Provider
):
    check_a_hundred_viewers(served, provider)


@pytest.mark.contract("F14")
@pytest.mark.contract("G7")
def test_a_hundred_viewers_of_another_process_s_run_take_no_more_either(
    served_elsewhere: Served, provider: Provider
):
    check_a_hundred_viewers(served_elsewhere, provider)


def check_a_hundred_viewers(served: Served, provider: Provider) -> None:
    gate = threading.Event()
    provider.reply(*openai_answer("short"))
    warm_up(served.admin, served.run(), 100)
    provider.reply(*two_words(gate))
    run = served.run()
    viewers: list[BareViewer] = []
    with ExitStack() as stack:
        stack.callback(gate.set)

        def come(count: int) -> Footprint:
            for viewer in crowd(served.admin, [run], count):
                viewers.append(stack.enter_context(viewer))
            return served.at_rest()

        one, hundred = come(1), come(99)
        assert hundred.threads <= one.threads + POOLED
        assert hundred.connections <= one.connections + POOLED
        # Each of them has a socket, and nothing else that is open: no connection to Redis either.
        assert 99 <= hundred.handles - one.handles <= 99 + HANDLES * POOLED
        gate.set()
        for viewer in viewers:
            viewer.read_until(b"\r\n0\r\n\r\n")
            assert text_of(viewer.events) == "one two"


@pytest.mark.contract("G7")
def test_runs_that_have_finished_leave_nothing_behind(served: Served, provider: Provider):
    provider.route(*openai_answer(*["word "] * 50))
    warm_up(served.admin, served.run(), 50)

    def have(count: int) -> None:
        # Each in a chat of its own: a long chat takes more memory for each page and request.
        for _ in range(count):
            assert served.admin.events(served.run())[-1].type == "done"

    have(FINISHED // 3)
    before = served.at_rest()
    have(FINISHED)
    served.wait_until_back(before, memory=FINISHED * 32 * KIB)


@pytest.mark.contract("G7")
def test_readers_of_a_long_answer_do_not_each_hold_all_of_it(served: Served, provider: Provider):
    provider.reply(*openai_answer(*[WORDS] * (5 * MIB // len(WORDS))))
    run = served.run()
    served.admin.events(run)
    before = served.at_rest().memory
    with ExitStack() as stack:
        for _ in range(READERS):
            viewer = BareViewer(served.admin, run, receive_buffer=SMALL)
            stack.enter_context(closing(viewer)).read_until(b"data: ")
        # Not the peak: how many pages are being read in the same moment is chance.
        held = served.at_rest().memory - before
    # Of about 4 MiB; all of the text would be 8, and with an end that each has for itself, 20.
    assert held < READERS * 6 * MIB
